# A JSON value as lines "path<TAB>value": {"a": {"b": 1}} gives "a.b<TAB>1". Strings lose their
# quotes, escapes stay as they are written.
{ text = text $0 "\n" }
END { at = 1; value(""); }

function skip() { while (substr(text, at, 1) ~ /[ \t\r\n]/) at++ }

function quoted(   from, c) {
    from = ++at
    while ((c = substr(text, at, 1)) != "\"" && c != "") at += c == "\\" ? 2 : 1
    return substr(text, from, at++ - from)
}

function value(path,   c, key, i, from) {
    skip()
    c = substr(text, at, 1)
    if (c == "{" || c == "[") {
        at++
        for (i = 0; ; i++) {
            skip()
            if (substr(text, at, 1) ~ /[]}]/ || at > length(text)) { at++; return }
            if (substr(text, at, 1) == ",") { at++; skip() }
            key = i
            if (c == "{") { key = quoted(); skip(); at++ }
            value(path (path == "" ? "" : ".") key)
        }
    } else if (c == "\"") {
        print path "\t" quoted()
    } else {
        from = at
        while (substr(text, at, 1) !~ /[],} \t\r\n]/ && at <= length(text)) at++
        print path "\t" substr(text, from, at - from)
    }
}
