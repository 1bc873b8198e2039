#!/usr/bin/env python3
"""Renders published chat templates with octet and with Jinja2, and prints what differs.

    pip install jinja2
    python3 tests/templates/compare.py FOLDER [--octet target/debug/octet] [--record FILE]
    python3 tests/templates/compare.py --constructs tests/fixtures/templates/constructs.json

FOLDER holds *.jinja files, such as models/templates of llama.cpp's source. Jinja2 is set up as
transformers does it. Octet is asked through `octet tokenize`, with a tokenizer of one token a byte
and the template's special tokens, so that its ids give back the text. Status 1 if any differ.

--record and --constructs write down what Jinja2 gives, for tests that run without it.
"""

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

DAY = datetime.datetime(2026, 11, 27)
BOS, EOS, UNK = "<s>", "</s>", "<unk>"


def conversations():
    system, user, assistant = (
        lambda text, role=role: {"role": role, "content": text}
        for role in ("system", "user", "assistant")
    )
    code = "```rust\nfn main() {\n    println!(\"{{ x }} {% raw %}\");\n}\n```"
    return {
        "one turn": [user("Hello")],
        "system": [system("Be brief.\nAnswer in German."), user(" 2 + 2? ")],
        "turns": [
            user("Hi <x> & \"y\""),
            assistant("Hello!"),
            user("And now?\n"),
            assistant(" Nothing. "),
            user("Bye"),
        ],
        "system and turns": [system("Terse."), user("a"), assistant("b"), user("c")],
        "empty": [system(""), user(""), assistant(""), user("x")],
        "empty answer": [user("Hi"), assistant(""), user("Hello?")],
        "unicode": [user("日本語 🤖 é e\u0301 \u2028 ß"), assistant("Ünï"), user("\u00a0\u200b")],
        "code": [user(code), assistant(code), user("Shorter: {{ messages }} {# no #}")],
        "users in a row": [user("one"), user("two"), assistant("three"), user("four")],
        "users in a row at the end": [system("s"), user("a"), assistant("b"), user("c"), user("d")],
        "answers in a row": [user("a"), assistant("b"), assistant("c"), user("d")],
        "answer first": [assistant("Welcome."), user("Hi")],
        "late system": [user("a"), assistant("b"), system("now terse"), user("c")],
        "thinking": [
            user("Think."),
            assistant("<think>\nhm, hm\n</think>\n\nDone."),
            user("Again."),
            assistant("<think>\n\n</think>\n\nDone again."),
            user("Once more"),
        ],
        "long": [
            (user if turn % 2 == 0 else assistant)(f"turn {turn} " * 20) for turn in range(41)
        ],
        "to be continued": [user("Count."), assistant("One, two,")],
    }


class GenerationTag(jinja2.ext.Extension):
    """`{% generation %}` as transformers has it, its spans not recorded."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        call = self.call_method("_body", [])
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


class Refusal(Exception):
    pass


def environment():
    def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    def raise_exception(message):
        raise Refusal(message)

    made = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[GenerationTag, jinja2.ext.loopcontrols],
    )
    made.filters["tojson"] = to_json
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = DAY.strftime
    return made


def merged(messages):
    """Messages of the same side in a row as one, as octet gives them where a template refuses."""
    together = []
    for message in messages:
        last = together[-1] if together else None
        if last and last["role"] == message["role"] != "system":
            both = [text for text in (last["content"], message["content"]) if text]
            last["content"] = "\n\n".join(both)
        else:
            together.append(dict(message))
    return together


def by_jinja2(source, messages):
    """The text, or None where the template refuses or fails."""

    def render(messages):
        answered = messages[-1]["role"] == "assistant"
        text = environment().from_string(source).render(
            messages=messages,
            add_generation_prompt=not answered,
            bos_token=BOS,
            eos_token=EOS,
            unk_token=UNK,
        )
        if answered:
            # As `continue_final_message` cuts it.
            final = messages[-1]["content"].strip()
            text = text[: text.rindex(final) + len(final)]
        return text

    try:
        try:
            return render(messages), None
        except Refusal as refusal:
            if merged(messages) == messages:
                return None, str(refusal)
            return render(merged(messages)), None
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


def record_constructs(path):
    """Fills in the texts of small templates, one construct each."""
    with open(path, encoding="utf-8") as file:
        cases = json.load(file)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a <b> \"c\""},
        {"role": "assistant", "content": "é"},
        {"role": "user", "content": "d"},
    ]
    for case in cases:
        case["text"] = environment().from_string(case["template"]).render(
            messages=messages, add_generation_prompt=True, bos_token=BOS, eos_token=EOS,
            unk_token=UNK,
        )
    with open(path, "w", encoding="utf-8") as file:
        json.dump(cases, file, ensure_ascii=False, indent=1)
        file.write("\n")


def special_tokens(source):
    marks = re.findall(r"<[|｜][^<>{}'\"\s]*?[|｜]>|\[/?[A-Z_]{3,}\]|<\w+_of_\w+>", source)
    return list(dict.fromkeys([UNK, BOS, EOS, *marks]))


def byte_names():
    """GPT-2's names of the 256 bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(hidden)) for byte in range(256)]


def tokenizer(specials):
    names = byte_names()
    vocabulary = {name: byte for byte, name in enumerate(names)}
    added = [
        {"id": 256 + place, "content": token, "special": True, "single_word": False,
         "lstrip": False, "rstrip": False, "normalized": False}
        for place, token in enumerate(specials)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                  "use_regex": False}
    return {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }


class Octet:
    def __init__(self, program, source, specials):
        self.program, self.specials = program, specials
        self.folder = tempfile.TemporaryDirectory()
        config = {"bos_token": BOS, "eos_token": EOS, "unk_token": UNK}
        self.write("tokenizer.json", json.dumps(tokenizer(specials)))
        self.write("tokenizer_config.json", json.dumps(config))
        self.write("chat_template.jinja", source)

    def write(self, name, text):
        with open(self.path(name), "w", encoding="utf-8", newline="") as file:
            file.write(text)

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def render(self, messages):
        self.write("messages.json", json.dumps(messages))
        call = [self.program, "tokenize", "--json", "--date", DAY.strftime("%Y-%m-%d"),
                "--tokenizer", self.folder.name, "--messages", self.path("messages.json")]
        done = subprocess.run(call, capture_output=True, text=True)
        if done.returncode != 0:
            return None, done.stderr.strip()
        text = bytearray()
        for token in json.loads(done.stdout)["ids"]:
            text += bytes([token]) if token < 256 else self.specials[token - 256].encode()
        return text.decode(), None


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("folder", nargs="?")
    arguments.add_argument("--constructs", metavar="FILE")
    arguments.add_argument("--octet", default="target/debug/octet")
    arguments.add_argument("--record", metavar="FILE")
    arguments.add_argument("--only", default="", help="part of a template's name")
    given = arguments.parse_args()
    if given.constructs:
        record_constructs(given.constructs)
        return 0
    if not given.folder:
        arguments.error("give a folder of templates")

    names = sorted(n for n in os.listdir(given.folder) if n.endswith(".jinja") and given.only in n)
    recorded, differing, compared = {}, set(), 0
    for name in names:
        with open(os.path.join(given.folder, name), encoding="utf-8", newline="") as file:
            source = file.read()
        specials = special_tokens(source)
        octet = Octet(given.octet, source, specials)
        texts = {}
        for title, messages in conversations().items():
            expected, why = by_jinja2(source, messages)
            texts[title] = expected
            if given.record:
                continue
            found, message = octet.render(messages)
            compared += 1
            if found != expected:
                differing.add(name)
                print(f"{name}: {title}")
                print(f"  Jinja2: {expected!r}" if expected is not None else f"  Jinja2: {why}")
                print(f"  octet:  {found!r}" if found is not None else f"  octet:  {message}")
        recorded[name] = {"specials": specials, "texts": texts}
    if given.record:
        record = {"conversations": conversations(), "templates": recorded}
        with open(given.record, "w", encoding="utf-8") as file:
            json.dump(record, file, ensure_ascii=False, indent=1)
            file.write("\n")
        return 0
    same = len(names) - len(differing)
    print(f"{same} of {len(names)} templates the same, {compared} conversations")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
