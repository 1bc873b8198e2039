"""Trains the demo model. `python train.py --help`; README.md beside this file tells the whole way."""

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

import corpus
import text
from model import Mixtral, Shape

SYSTEM = [
    "You are a helpful assistant.",
    "Answer briefly.",
    "You are Octet, a friendly desktop assistant.",
    "Be kind and clear.",
    "Reply in plain English.",
]
# How many turns a conversation has, and how often.
TURNS = [1] * 30 + [2] * 4 + [3, 5]


class Data:
    """Batches of packed conversations."""

    def __init__(self, tok: Tokenizer, intents, seed: int, window: int, cut: float):
        self.tok, self.intents, self.window, self.cut = tok, intents, window, cut
        self.rng = random.Random(seed)
        self.answers = [self.ids(f" {i.answer}") + [text.EOS] for i in intents]

    def ids(self, s: str) -> list[int]:
        return self.tok.encode(s, add_special_tokens=False).ids

    def documents(self):
        """One pass over all wordings: (ids, weight of each id as a target)."""
        rng = self.rng
        order = [(i, w) for i, it in enumerate(self.intents) for w in it.wordings]
        rng.shuffle(order)
        at = 0
        while at < len(order):
            n = rng.choice(TURNS)
            ids, weight = [text.BOS], [0.0]
            turns = order[at : at + n]
            at += n
            for turn, (i, wording) in enumerate(turns):
                question = corpus.vary(rng, wording)
                if turn == 0 and rng.random() < 0.06:
                    question = f"{rng.choice(SYSTEM)}\n\n{question}"
                # A bare prompt, without the chat layout, is answered too.
                plain = n == 1 and rng.random() < 0.1
                q = self.ids(question if plain else text.render_user(question))
                a = self.answers[i]
                # The first words decide which answer it is; the rest is learned soon.
                if turn == len(turns) - 1 and rng.random() < self.cut:
                    a = a[: rng.randint(4, 12)]
                ids += q + a
                weight += [0.0] * len(q) + [2.0] * min(4, len(a)) + [1.0] * max(0, len(a) - 4)
            yield ids[: self.window], weight[: self.window]

    def windows(self):
        """Windows of about `window` ids: lists of documents."""
        pool, room = [], self.window
        for doc in self.documents():
            if len(doc[0]) > room:
                yield pool
                pool, room = [], self.window
            pool.append(doc)
            room -= len(doc[0])
        if pool:
            yield pool

    def batches(self, size: int):
        some = []
        for window in self.windows():
            some.append(window)
            if len(some) == size:
                yield collate(some, self.window)
                some = []


def collate(windows, length):
    b = len(windows)
    ids = torch.zeros(b, length, dtype=torch.long)
    target = torch.zeros(b, length, dtype=torch.long)
    weight = torch.zeros(b, length)
    position = torch.zeros(b, length)
    doc = torch.full((b, length), -1)
    for r, window in enumerate(windows):
        at = 0
        for d, (tokens, w) in enumerate(window):
            n = len(tokens)
            ids[r, at : at + n] = torch.tensor(tokens)
            target[r, at : at + n - 1] = torch.tensor(tokens[1:])
            weight[r, at : at + n - 1] = torch.tensor(w[1:])
            position[r, at : at + n] = torch.arange(n)
            doc[r, at : at + n] = d
            at += n
    live = doc >= 0
    mask = (doc[:, :, None] == doc[:, None, :]).tril()
    mask |= torch.eye(length, dtype=torch.bool)
    return ids, target, weight, position, mask, live


@torch.no_grad()
def judge(model, data: Data, questions, window=512, batch=12):
    """Share of `questions` (intent index, wording) whose every greedy token is the written answer's."""
    model.eval()
    docs = []
    for i, wording in questions:
        q = data.ids(text.render_user(wording))
        docs.append(([text.BOS] + q + data.answers[i], [0.0] * (len(q) + 1) + [1.0] * len(data.answers[i])))
    right = {}
    order = sorted(range(len(docs)), key=lambda j: len(docs[j][0]))
    packs, pool, room = [], [], window
    for j in order:
        if len(docs[j][0]) > room:
            packs.append(pool)
            pool, room = [], window
        pool.append(j)
        room -= len(docs[j][0])
    packs.append(pool)
    for at in range(0, len(packs), batch):
        group = packs[at : at + batch]
        ids, target, weight, position, mask, live = collate([[docs[j] for j in p] for p in group], window)
        wanted = weight > 0
        hit = torch.ones_like(wanted)
        hit[wanted] = model(ids, position, mask, live, wanted).argmax(-1) == target[wanted]
        for r, pack in enumerate(group):
            start = 0
            for j in pack:
                n = len(docs[j][0])
                right[j] = bool(hit[r, start : start + n].all())
                start += n
    model.train()
    return [right[j] for j in range(len(docs))]


def held_out(intents, folder):
    index = {it.id: i for i, it in enumerate(intents)}
    out = []
    for block in corpus.read(folder) if folder.exists() else []:
        if block.id in index:
            out += [(index[block.id], w) for w in block.wordings]
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--out", type=Path, required=True, help="folder for the float checkpoint and the log")
    p.add_argument("--root", type=Path, default=corpus.ROOT, help="folder with corpus/, and dev/ if there are questions to watch")
    p.add_argument("--float-epochs", type=float, default=14)
    p.add_argument("--grid-epochs", type=float, default=12)
    p.add_argument("--vocab", type=int, default=3584)
    p.add_argument("--hidden", type=int, default=256)
    p.add_argument("--intermediate", type=int, default=384)
    p.add_argument("--layers", type=int, default=6)
    p.add_argument("--window", type=int, default=384)
    p.add_argument("--batch", type=int, default=12)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--dropout", type=float, default=0.1)
    p.add_argument("--cut", type=float, default=0.9)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--seed", type=int, default=8)
    p.add_argument("--init", type=Path, help="folder of float weights and tokenizer to go on from, with half the rate")
    p.add_argument("--resume", action="store_true", help="go on from OUT/state.pt")
    p.add_argument("--limit", type=int, default=0, help="only so many steps (for trying things out)")
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(a.seed)
    torch.set_num_threads(a.threads)

    intents = corpus.read(a.root / "corpus")
    tok_path = a.out / "tokenizer.json"
    if a.init and not a.resume:
        tok_path.write_text((a.init / "tokenizer.json").read_text(encoding="utf-8"), encoding="utf-8")
    elif not a.resume:
        text.train_tokenizer(intents, a.vocab, tok_path, a.seed)
    tok = Tokenizer.from_file(str(tok_path))
    shape = Shape(
        vocab_size=tok.get_vocab_size(),
        hidden_size=a.hidden,
        intermediate_size=a.intermediate,
        num_hidden_layers=a.layers,
    )
    model = Mixtral(shape, a.dropout)
    data = Data(tok, intents, a.seed, a.window, a.cut)
    dev = held_out(intents, a.root / "dev")
    n_windows = sum(1 for _ in data.windows())
    per_epoch = n_windows // a.batch
    n_float, n_grid = int(a.float_epochs * per_epoch), int(a.grid_epochs * per_epoch)
    total = n_float + n_grid
    count = sum(len(i.wordings) for i in intents)
    print(
        f"{len(intents)} intents, {count} wordings, {len(dev)} dev wordings; vocabulary {shape.vocab_size};"
        f" {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters; {per_epoch} steps an epoch, {total} in all",
        flush=True,
    )
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    opt = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
        lr=a.lr, betas=(0.9, 0.98), fused=True,
    )

    def rate(step):
        """Warm-up, cosine; the grid phase starts again at a quarter of the height."""
        if step < n_float:
            height = 0.5 if a.init else 1.0
            return height * min(1, (step + 1) / 100) * (0.15 + 0.85 * (1 + math.cos(math.pi * step / max(1, n_float))) / 2)
        s = (step - n_float) / max(1, n_grid)
        return 0.25 * min(1, (step - n_float + 1) / 50) * (1 + math.cos(math.pi * s)) / 2 + 0.002

    step, state = 0, a.out / "state.pt"
    if a.init and not a.resume:
        named = load_file(a.init / "model.safetensors")
        model.load_state_dict({k.removeprefix("model."): v for k, v in named.items()})
    if a.resume and state.exists():
        saved = torch.load(state)
        model.load_state_dict(saved["model"])
        opt.load_state_dict(saved["opt"])
        step = saved["step"]
        data.rng.seed(a.seed + step)

    def save(name, on_grid):
        folder = a.out / name
        folder.mkdir(exist_ok=True)
        save_file(model.tensors(on_grid), folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(shape.config(), indent=2) + "\n")
        (folder / "tokenizer.json").write_text(tok_path.read_text(encoding="utf-8"), encoding="utf-8")

    def rates():
        some = random.Random(0).sample([(i, w) for i, it in enumerate(intents) for w in it.wordings], min(300, count))
        r = judge(model, data, some)
        line = f"trained wordings {sum(r) / len(r):.3f}"
        if dev:
            d = judge(model, data, dev)
            line += f", dev {sum(d) / len(d):.3f}"
        return line

    begun, seen, since, loss_sum = time.time(), 0, time.time(), 0.0
    model.train()
    batches = data.batches(a.batch)
    while step < total:
        if step == n_float:
            print(f"step {step}: float: {rates()}", flush=True)
            save("float", False)
            model.quantize(experts=True, attention=True)
            model.eval()
            print(f"step {step}: onto the grid, untrained: {rates()}", flush=True)
        model.quantize(step >= n_float, step >= n_float)
        batch = next(batches, None)
        if batch is None:
            batches = data.batches(a.batch)
            continue
        ids, target, weight, position, mask, live = batch
        for group in opt.param_groups:
            group["lr"] = a.lr * rate(step)
        wanted = weight > 0
        w = weight[wanted]
        logits = model(ids, position, mask, live, wanted)
        loss = (F.cross_entropy(logits, target[wanted], reduction="none") * w).sum() / w.sum()
        opt.zero_grad(set_to_none=True)
        (loss + 0.01 * model.balance()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        step += 1
        seen += int(live.sum())
        loss_sum += loss.item()
        if step % 20 == 0:
            print(
                f"step {step}: loss {loss_sum / 20:.3f}, balance {model.balance().item():.3f},"
                f" {seen / (time.time() - since):.0f} tokens/s, {(time.time() - begun) / 60:.1f} min",
                flush=True,
            )
            seen, since, loss_sum = 0, time.time(), 0.0
        if step % 150 == 0:
            print(f"step {step}: {rates()}", flush=True)
            torch.save({"model": model.state_dict(), "opt": opt.state_dict(), "step": step}, state)
            since = time.time()
        if a.limit and step >= a.limit:
            break
    print(f"step {step}: on the grid: {rates()}", flush=True)
    save("grid", True)
    torch.save({"model": model.state_dict(), "opt": opt.state_dict(), "step": step}, state)


if __name__ == "__main__":
    main()
