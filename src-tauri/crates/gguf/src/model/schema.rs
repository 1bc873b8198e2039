//! Which tensors a model consists of: names, shapes and types, and that there are no others.

use std::collections::BTreeSet;

use super::error::ModelError;
use super::family::Family;
use super::tensors::{Expert, ExpertBiases, Floats, Layer, Linear, Matrix};
use octet_spec::{ModelSpec, QkNorm};

use crate::gguf::Gguf;
use crate::tensor::TensorInfo;

pub(super) const EMBEDDINGS: &str = "token_embd.weight";
pub(super) const OUTPUT_NORM: &str = "output_norm.weight";
pub(super) const OUTPUT: &str = "output.weight";
pub(super) const ROPE_FREQS: &str = "rope_freqs.weight";

/// Hands out a model's tensors, each once.
pub(super) struct Tensors<'g> {
    gguf: &'g Gguf,
    unread: BTreeSet<&'g str>,
    /// Everything that was handed out but the experts' matrices.
    trunk: Vec<(String, TensorInfo)>,
}

impl<'g> Tensors<'g> {
    pub(super) fn new(gguf: &'g Gguf) -> Self {
        Self {
            gguf,
            unread: gguf.tensors().keys().map(String::as_str).collect(),
            trunk: Vec::new(),
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.gguf.tensor(name).is_some()
    }

    /// The tensor of this name and these dimensions, fastest first.
    fn take(
        &mut self,
        name: &str,
        dims: &[usize],
        floats: bool,
    ) -> Result<&'g TensorInfo, ModelError> {
        let info = self.gguf.tensor(name);
        let info = info.ok_or_else(|| ModelError::MissingTensor {
            tensor: name.to_owned(),
        })?;
        let wide: Vec<u64> = dims.iter().map(|&dim| dim as u64).collect();
        if !info.dims.is(&wide) || (floats && !info.ty.is_float()) {
            let types = if floats {
                "F32, F16 or BF16"
            } else {
                "dimensions"
            };
            return Err(ModelError::Tensor {
                tensor: name.to_owned(),
                expected: format!("{types} {dims:?}"),
                found: format!("{} {:?}", info.ty, info.dims),
            });
        }
        self.unread.remove(name);
        Ok(info)
    }

    /// Floats of these dimensions, fastest first.
    pub(super) fn floats(&mut self, name: &str, dims: &[usize]) -> Result<Floats, ModelError> {
        let info = self.take(name, dims, true)?;
        self.trunk.push((name.to_owned(), info.clone()));
        Ok(Floats {
            span: info.span,
            ty: info.ty,
            len: dims.iter().product(),
        })
    }

    /// A matrix of the trunk, (n, k).
    pub(super) fn matrix(&mut self, name: &str, n: usize, k: usize) -> Result<Matrix, ModelError> {
        let info = self.take(name, &[k, n], false)?;
        self.trunk.push((name.to_owned(), info.clone()));
        Ok(matrix(info, n, k))
    }

    /// Everything that was handed out but the experts' matrices.
    ///
    /// # Errors
    /// [`ModelError::UnreadTensor`] where something was not.
    pub(super) fn finish(
        self,
        architecture: &'static str,
    ) -> Result<Vec<(String, TensorInfo)>, ModelError> {
        match self.unread.first() {
            None => Ok(self.trunk),
            Some(first) => Err(ModelError::UnreadTensor {
                tensor: (*first).to_owned(),
                more: self.unread.len() - 1,
                architecture,
            }),
        }
    }
}

fn matrix(info: &TensorInfo, n: usize, k: usize) -> Matrix {
    Matrix {
        span: info.span,
        ty: info.ty,
        n,
        k,
    }
}

/// The tensors of one layer.
pub(super) struct LayerSchema<'t, 'g> {
    pub(super) tensors: &'t mut Tensors<'g>,
    pub(super) spec: &'t ModelSpec,
    pub(super) family: &'static Family,
    pub(super) layer: usize,
}

impl LayerSchema<'_, '_> {
    pub(super) fn read(&mut self) -> Result<Layer, ModelError> {
        let spec = self.spec;
        let (hidden, q_rows, kv_rows) = (spec.hidden_size, spec.q_size(), spec.kv_size());
        let [q, k, v] = self.projections(q_rows, kv_rows)?;
        let (q_norm, k_norm) = match spec.qk_norm {
            QkNorm::None => (None, None),
            norm => {
                let len = |rows| match norm {
                    QkNorm::Head => spec.head_dim,
                    _ => rows,
                };
                (
                    Some(self.floats("attn_q_norm.weight", &[len(q_rows)])?),
                    Some(self.floats("attn_k_norm.weight", &[len(kv_rows)])?),
                )
            }
        };
        let sinks = spec.attention_sinks;
        let sinks = sinks.then(|| self.floats("attn_sinks.weight", &[spec.n_heads]));
        let ffn_norm = format!("{}.weight", self.family.ffn_norm);
        Ok(Layer {
            attn_norm: self.floats("attn_norm.weight", &[hidden])?,
            q,
            k,
            v,
            o: self.linear("attn_output", hidden, q_rows, spec.attention_bias)?,
            q_norm,
            k_norm,
            sinks: sinks.transpose()?,
            ffn_norm: self.floats(&ffn_norm, &[hidden])?,
            router: self.router()?,
            expert_biases: self.expert_biases()?,
            experts: self.experts()?,
        })
    }

    fn name(&self, rest: &str) -> String {
        format!("blk.{}.{rest}", self.layer)
    }

    fn floats(&mut self, rest: &str, dims: &[usize]) -> Result<Floats, ModelError> {
        let name = self.name(rest);
        self.tensors.floats(&name, dims)
    }

    fn linear(&mut self, rest: &str, n: usize, k: usize, bias: bool) -> Result<Linear, ModelError> {
        let name = self.name(&format!("{rest}.weight"));
        let weight = self.tensors.matrix(&name, n, k)?;
        let bias = bias.then(|| self.floats(&format!("{rest}.bias"), &[n]));
        Ok(Linear {
            weight,
            bias: bias.transpose()?,
        })
    }

    /// Queries, keys and values: three matrices, or one with the rows of all.
    fn projections(&mut self, q_rows: usize, kv_rows: usize) -> Result<[Linear; 3], ModelError> {
        let hidden = self.spec.hidden_size;
        let biases = self.spec.attention_bias;
        let fused = self.name("attn_qkv.weight");
        if self.tensors.has(&fused) && !biases {
            let all = self.tensors.matrix(&fused, q_rows + 2 * kv_rows, hidden)?;
            let rows = [(0, q_rows), (q_rows, kv_rows), (q_rows + kv_rows, kv_rows)];
            return Ok(rows.map(|(first, n)| Linear {
                weight: all.rows(first, n),
                bias: None,
            }));
        }
        Ok([
            self.linear("attn_q", q_rows, hidden, biases)?,
            self.linear("attn_k", kv_rows, hidden, biases)?,
            self.linear("attn_v", kv_rows, hidden, biases)?,
        ])
    }

    /// The router. Rounded to fewer bits it would choose other experts, so it has to be of floats.
    fn router(&mut self) -> Result<Linear, ModelError> {
        let (hidden, n_experts) = (self.spec.hidden_size, self.spec.n_experts);
        let weight = self.floats("ffn_gate_inp.weight", &[hidden, n_experts])?;
        let bias = self.spec.router.has_bias;
        let bias = bias.then(|| self.floats("ffn_gate_inp.bias", &[n_experts]));
        Ok(Linear {
            weight: Matrix {
                span: weight.span,
                ty: weight.ty,
                n: n_experts,
                k: hidden,
            },
            bias: bias.transpose()?,
        })
    }

    fn expert_biases(&mut self) -> Result<Option<ExpertBiases>, ModelError> {
        let spec = self.spec;
        if !spec.expert_bias {
            return Ok(None);
        }
        let inner = [spec.intermediate_size, spec.n_experts];
        let outer = [spec.hidden_size, spec.n_experts];
        Ok(Some(ExpertBiases {
            gate: self.floats("ffn_gate_exps.bias", &inner)?,
            up: self.floats("ffn_up_exps.bias", &inner)?,
            down: self.floats("ffn_down_exps.bias", &outer)?,
        }))
    }

    /// All experts, in whichever of three ways the file has them.
    fn experts(&mut self) -> Result<Vec<Expert>, ModelError> {
        let spec = self.spec;
        let (hidden, inner) = (spec.hidden_size, spec.intermediate_size);
        let n_experts = spec.n_experts;
        let plain = !spec.expert_bias;
        // As files had them before April 2024: a tensor for each matrix of each expert.
        if plain && self.tensors.has(&self.name("ffn_gate.0.weight")) {
            let expert = |e: usize| {
                Ok(Expert {
                    gate: self.single("gate", e, inner, hidden)?,
                    up: self.single("up", e, inner, hidden)?,
                    down: self.single("down", e, hidden, inner)?,
                    fused: false,
                })
            };
            return (0..n_experts).map(expert).collect();
        }
        let down = |this: &mut Self| this.stack("ffn_down_exps.weight", hidden, inner);
        if plain && self.tensors.has(&self.name("ffn_gate_up_exps.weight")) {
            let both = self.stack("ffn_gate_up_exps.weight", 2 * inner, hidden)?;
            let down = down(self)?;
            let experts = both.into_iter().zip(down).map(|(both, down)| Expert {
                gate: both.rows(0, inner),
                up: both.rows(inner, inner),
                down,
                fused: true,
            });
            return Ok(experts.collect());
        }
        let gate = self.stack("ffn_gate_exps.weight", inner, hidden)?;
        let up = self.stack("ffn_up_exps.weight", inner, hidden)?;
        let down = down(self)?;
        let experts = gate.into_iter().zip(up).zip(down);
        let expert = |((gate, up), down)| Expert {
            gate,
            up,
            down,
            fused: false,
        };
        Ok(experts.map(expert).collect())
    }

    /// One matrix of one expert, in a tensor of its own.
    fn single(
        &mut self,
        which: &str,
        expert: usize,
        n: usize,
        k: usize,
    ) -> Result<Matrix, ModelError> {
        let name = self.name(&format!("ffn_{which}.{expert}.weight"));
        let info = self.tensors.take(&name, &[k, n], false)?;
        Ok(matrix(info, n, k))
    }

    /// The matrices (n, k) of all experts, one after the other in one tensor.
    fn stack(&mut self, rest: &str, n: usize, k: usize) -> Result<Vec<Matrix>, ModelError> {
        let n_experts = self.spec.n_experts;
        let name = self.name(rest);
        let info = self.tensors.take(&name, &[k, n, n_experts], false)?;
        let all = matrix(info, n * n_experts, k);
        Ok((0..n_experts).map(|e| all.rows(e * n, n)).collect())
    }
}
