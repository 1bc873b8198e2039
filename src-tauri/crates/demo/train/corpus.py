"""The corpus: reading it, and the many ways a question can be typed.

A corpus file is blocks of lines: `= id`, then `? wording` lines, then one answer in `! ` lines.
Held-out files have `= id` and `? wording` lines only; they are never trained on.
"""

import random
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Intent:
    id: str
    wordings: list[str]
    answer: str


def read(folder: Path) -> list[Intent]:
    intents, seen = [], {}
    for path in sorted(folder.glob("*.txt")):
        for block in re.split(r"\n\s*\n", path.read_text(encoding="utf-8")):
            lines = [line.rstrip() for line in block.splitlines() if line.strip()]
            lines = [line for line in lines if not line.startswith("#")]
            if not lines:
                continue
            head = lines[0]
            if not head.startswith("= "):
                raise SystemExit(f"{path.name}: a block starts with {head!r}, not with '= id'")
            key = head[2:].strip()
            if key in seen:
                raise SystemExit(f"{path.name}: {key} is in {seen[key]} already")
            seen[key] = path.name
            wordings, answer = [], []
            for line in lines[1:]:
                if line.startswith("? "):
                    wordings.append(line[2:].strip())
                elif line.startswith("!"):
                    answer.append(line[1:].strip())
                else:
                    raise SystemExit(f"{path.name}: {key}: {line!r} is neither '?' nor '!'")
            intents.append(Intent(key, wordings, "\n".join(answer)))
    return intents


# Words that mean the same here, whatever stands around them.
SAME = [
    "app application program software tool",
    "gpu|graphics card|video card|graphics chip",
    "download|get|fetch|grab",
    "delete remove erase",
    "pc computer machine",
    "quick fast speedy",
    "explain describe",
    "fix solve repair",
    "error problem issue",
    "folder directory",
    "chat conversation",
    "answer reply response",
    "settings options preferences",
    "change modify adjust",
    "happens occurs",
    "use utilize",
    "show display",
    "pick choose select",
    "begin start",
    "big large huge",
    "little small tiny",
    "buy purchase",
    "write compose",
    "picture image photo",
    "internet web",
    "movie film",
    "mean signify",
    "want need",
    "bigger larger",
    "slow sluggish",
    "stop halt end",
    "setting option parameter",
]
SYNONYMS: dict[str, list[str]] = {}
for group in SAME:
    words = group.split("|") if "|" in group else group.split()
    for word in words:
        SYNONYMS[word] = [other for other in words if other != word]

SWAPS = [
    ("what is", "what's"), ("what's", "what is"), ("whats", "what is"), ("what is", "whats"),
    ("do not", "don't"), ("don't", "do not"), ("don't", "dont"), ("does not", "doesn't"),
    ("doesn't", "does not"), ("cannot", "can't"), ("can't", "cannot"), ("can't", "cant"),
    ("i am", "i'm"), ("i'm", "i am"), ("i'm", "im"), ("how do i", "how can i"),
    ("how can i", "how do i"), ("how do i", "how to"), ("how can i", "how to"),
    ("how do i", "what is the way to"), ("can you", "could you"), ("could you", "can you"),
    ("can i", "is it possible to"), ("is it possible to", "can i"), ("how does", "how do"),
    ("what does", "what do"), ("tell me about", "explain"), ("is there", "do you have"),
    ("where is", "where's"), ("it is", "it's"), ("it's", "its"), ("you are", "you're"),
    ("are you", "r u"), ("you", "u"), ("please", "pls"), ("should i", "do i"),
    ("i want to", "i'd like to"), ("i want to", "i wanna"), ("i need to", "i have to"),
]
PREFIXES = [
    "hey,", "hi,", "hello,", "ok,", "okay", "so", "um,", "well,", "please", "hey octet,", "octet,",
    "quick question:", "one question:", "question:", "sorry,", "excuse me,", "can you tell me",
    "could you tell me", "tell me", "i wonder", "i'd like to know", "just curious,", "alright,",
    "and", "but", "now", "also,", "yo", "hmm,", "good, now", "thanks. now", "i have a question:",
]
SUFFIXES = [
    "please", "pls", "thanks", "thank you", "in octet", "here", "exactly", "?", "??", "!", "...",
    "then", "actually", "for me", "in this app", "in short", "in simple words", "simply", "now",
]
STOP = set(
    "a an the is are do does did can could would will to of for in on at it its this that "
    "please just really actually so and there be with have has".split()
)
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def vary(rng: random.Random, text: str) -> str:
    """`text` as somebody else might have typed it; the meaning is kept."""
    if rng.random() < 0.12:
        return text
    words = text.split()
    long_enough = len(words) >= 4
    if long_enough and rng.random() < 0.35:
        low = " ".join(words)
        for old, new in rng.sample(SWAPS, len(SWAPS)):
            at = re.search(rf"\b{re.escape(old)}\b", low, re.IGNORECASE)
            if at:
                low = low[: at.start()] + new + low[at.end() :]
                break
        words = low.split()
    if rng.random() < 0.35:
        for i, word in enumerate(words):
            core = word.strip(".,?!:;").lower()
            if core in SYNONYMS and rng.random() < 0.5:
                words[i] = word.lower().replace(core, rng.choice(SYNONYMS[core]))
    if long_enough and rng.random() < 0.25:
        at = [i for i, w in enumerate(words) if w.strip(".,?!").lower() in STOP]
        for i in sorted(rng.sample(at, min(len(at), rng.choice([1, 1, 2]))), reverse=True):
            del words[i]
    if len(words) >= 6 and rng.random() < 0.12:
        del words[rng.randrange(len(words))]
    if long_enough and rng.random() < 0.06:
        i = rng.randrange(len(words) - 1)
        words[i], words[i + 1] = words[i + 1], words[i]
    if rng.random() < 0.12 and words:
        i = rng.randrange(len(words))
        words[i] = typo(rng, words[i])
    text = " ".join(words)
    enough = len(words) >= 3
    if enough and rng.random() < 0.16:
        text = f"{rng.choice(PREFIXES)} {text[0].lower() + text[1:] if text[0] != 'I' else text}"
    if enough and rng.random() < 0.08:
        text = f"{text.rstrip('?.!')} {rng.choice(SUFFIXES)}"
    if rng.random() < 0.4:
        text = text.rstrip("?.!")
    elif rng.random() < 0.15 and text and text[-1] not in "?.!":
        text += rng.choice("?.")
    draw = rng.random()
    if draw < 0.4:
        text = text.lower()
    elif draw < 0.6 and text:
        text = text[0].upper() + text[1:]
    elif draw < 0.62:
        text = text.upper()
    return text.strip() or words[0]


def typo(rng: random.Random, word: str) -> str:
    if len(word) < 4:
        return word
    i = rng.randrange(1, len(word) - 1)
    kind = rng.randrange(4)
    if kind == 0:
        return word[:i] + word[i + 1 :]
    if kind == 1:
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    if kind == 2:
        return word[:i] + word[i] + word[i:]
    return word[:i] + rng.choice(LETTERS) + word[i + 1 :]
