"""Mixtral in plain PyTorch, with HQQ's grid in the loop. Names are those of the HF checkpoint."""

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class Shape:
    vocab_size: int
    hidden_size: int = 256
    intermediate_size: int = 512
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    num_local_experts: int = 8
    num_experts_per_tok: int = 2
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 1024

    def config(self) -> dict:
        return {
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            "hidden_act": "silu",
            "attention_dropout": 0.0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "initializer_range": 0.02,
            "output_router_logits": False,
            "router_aux_loss_coef": 0.02,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "torch_dtype": "float16",
            "use_cache": True,
            **asdict(self),
        }


class OnGrid(torch.autograd.Function):
    """The nearest point of HQQ's grid going forward, the identity going back."""

    @staticmethod
    def forward(ctx, w, bits, group):
        g = w.view(group, -1)
        top = 2**bits - 1
        low, high = g.amin(0), g.amax(0)
        scale = ((high - low) / top).clamp_min(1e-8)
        return torch.addcmul(low, g.sub(low).div_(scale).round_(), scale).view_as(w)

    @staticmethod
    def backward(ctx, grad):
        return grad, None, None


class Matrix(nn.Module):
    def __init__(self, n, k, bits, group, gain=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n, k) * gain / math.sqrt(k))
        self.bits, self.group, self.quantized = bits, group, False

    def grid(self):
        return OnGrid.apply(self.weight, self.bits, self.group)

    def w(self):
        return self.grid() if self.quantized else self.weight

    def forward(self, x):
        return F.linear(x, self.w())


class Norm(nn.Module):
    def __init__(self, n, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(n)), eps

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class Attention(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.heads, self.kv = s.num_attention_heads, s.num_key_value_heads
        self.dim = s.hidden_size // self.heads
        h = s.hidden_size
        self.q_proj = Matrix(self.heads * self.dim, h, 4, 64)
        self.k_proj = Matrix(self.kv * self.dim, h, 4, 64)
        self.v_proj = Matrix(self.kv * self.dim, h, 4, 64)
        self.o_proj = Matrix(h, self.heads * self.dim, 4, 64, 1 / math.sqrt(2 * s.num_hidden_layers))

    def forward(self, x, mask, cos, sin):
        b, n, _ = x.shape

        def split(t, heads):
            return t.view(b, n, heads, self.dim).transpose(1, 2)

        def turn(t):
            a, c = t.chunk(2, -1)
            return t * cos + torch.cat((-c, a), -1) * sin

        q = turn(split(self.q_proj(x), self.heads))
        k = turn(split(self.k_proj(x), self.kv))
        v = split(self.v_proj(x), self.kv)
        rep = self.heads // self.kv
        k, v = k.repeat_interleave(rep, 1), v.repeat_interleave(rep, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.o_proj(y.transpose(1, 2).reshape(b, n, -1))


class Expert(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        h, i = s.hidden_size, s.intermediate_size
        self.w1, self.w3 = Matrix(i, h, 2, 16), Matrix(i, h, 2, 16)
        self.w2 = Matrix(h, i, 2, 16, 1 / math.sqrt(2 * s.num_hidden_layers))

    def forward(self, x):
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class SparseMoe(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.top_k = s.num_experts_per_tok
        self.gate = nn.Linear(s.hidden_size, s.num_local_experts, bias=False)
        self.experts = nn.ModuleList(Expert(s) for _ in range(s.num_local_experts))

    def forward(self, x, live):
        """`live`: which positions are no padding; only these count for the balance."""
        flat = x.reshape(-1, x.shape[-1])
        probs = self.gate(flat).softmax(-1)
        weight, chosen = probs.topk(self.top_k, -1)
        weight = weight / weight.sum(-1, keepdim=True)
        n, slots = len(self.experts), chosen.flatten()
        order = slots.argsort(stable=True)
        token = order // self.top_k
        shares = flat.index_select(0, token).split(slots.bincount(minlength=n).tolist())
        parts = torch.cat([expert(x) for expert, x in zip(self.experts, shares)])
        parts = parts * weight.flatten().index_select(0, order)[:, None]
        out = torch.zeros_like(flat).index_add(0, token, parts)
        share = F.one_hot(chosen, n).float().sum(1)[live].mean(0) / self.top_k
        self.balance = n * (share * probs[live].mean(0)).sum()
        self.chosen = chosen.view(*x.shape[:-1], self.top_k)
        return out.view_as(x)


class Layer(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.input_layernorm = Norm(s.hidden_size, s.rms_norm_eps)
        self.self_attn = Attention(s)
        self.post_attention_layernorm = Norm(s.hidden_size, s.rms_norm_eps)
        self.block_sparse_moe = SparseMoe(s)


class Mixtral(nn.Module):
    def __init__(self, s: Shape, dropout=0.0):
        super().__init__()
        self.shape, self.dropout = s, dropout
        self.embed_tokens = nn.Embedding(s.vocab_size, s.hidden_size)
        nn.init.normal_(self.embed_tokens.weight, std=0.5)
        self.layers = nn.ModuleList(Layer(s) for _ in range(s.num_hidden_layers))
        self.norm = Norm(s.hidden_size, s.rms_norm_eps)
        self.lm_head = nn.Linear(s.hidden_size, s.vocab_size, bias=False)

    def quantize(self, experts: bool, attention: bool):
        """Switches the grid on or off."""
        for m in self.modules():
            if isinstance(m, Matrix):
                m.quantized = experts if m.bits == 2 else attention

    def forward(self, ids, position, mask, live, wanted=None):
        """Logits at the positions `wanted` (bool, batch x seq), or everywhere.

        `mask`: batch x seq x seq, true where a token may look.
        """
        dim = self.shape.hidden_size // self.shape.num_attention_heads
        freq = self.shape.rope_theta ** (-torch.arange(0, dim, 2) / dim)
        angle = (position[..., None] * freq).repeat(1, 1, 2)[:, None]
        cos, sin = angle.cos(), angle.sin()
        drop = lambda t: F.dropout(t, self.dropout, self.training)
        live = live.flatten()
        x = drop(self.embed_tokens(ids))
        for layer in self.layers:
            x = x + drop(layer.self_attn(layer.input_layernorm(x), mask[:, None], cos, sin))
            x = x + layer.block_sparse_moe(layer.post_attention_layernorm(x), live)
        x = self.norm(x)
        return self.lm_head(x if wanted is None else x[wanted])

    def balance(self):
        return torch.stack([layer.block_sparse_moe.balance for layer in self.layers]).mean()

    def tensors(self, on_grid: bool) -> dict[str, torch.Tensor]:
        """Named as in an HF checkpoint; quantized matrices on their grid or as they are."""
        out = {}
        for name, m in self.named_modules():
            if isinstance(m, Matrix):
                out[f"model.{name}.weight"] = m.grid() if on_grid else m.weight
        for name, p in self.named_parameters():
            full = name if name.startswith("lm_head") else f"model.{name}"
            out.setdefault(full, p)
        return {k: v.detach().contiguous().clone() for k, v in out.items()}
