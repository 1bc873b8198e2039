"""Tokenizer and chat layout: those of Mixtral, with a small vocabulary of its own."""

import json
import random
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

import corpus

BOS, EOS = 1, 2
BYTES = [f"<0x{b:02X}>" for b in range(256)]
# A merge never spans words, digits or punctuation.
PIECES = r"▁?\[/?INST\]|▁?[^\W\d_]+|▁?\d|\n|▁?[^\w\s▁]|▁"


def render_user(text: str) -> str:
    return f" [INST] {text} [/INST]"


def train_tokenizer(intents, size: int, path: Path, seed: int) -> Tokenizer:
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizers.Replace(" ", "▁")
    tok.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), "isolated")
    rng = random.Random(seed)
    texts = []
    for intent in intents:
        for wording in intent.wordings:
            texts.append(render_user(wording))
            texts.append(render_user(corpus.vary(rng, wording)))
        texts += [f" {intent.answer}"] * 6
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<unk>", "<s>", "</s>", *BYTES],
        initial_alphabet=[chr(c) for c in range(33, 127)] + ["▁", "\n"],
        min_frequency=2,
        show_progress=False,
    )
    tok.train_from_iterator(texts, trainer)
    spec = json.loads(tok.to_str())
    spec["added_tokens"] = [t for t in spec["added_tokens"] if t["id"] < 3]
    spec["pre_tokenizer"] = None
    spec["decoder"] = {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
        ],
    }
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    a = {"Sequence": {"id": "A", "type_id": 0}}
    spec["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [bos, a],
        "pair": [bos, a, {"SpecialToken": {"id": "<s>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    path.write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    return Tokenizer.from_file(str(path))
