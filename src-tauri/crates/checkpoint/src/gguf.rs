//! GGUF files: from what a file describes to what the decoder reads.

use std::io::Read;
use std::ops::Range;
use std::path::Path;

use octet_gguf::{Expert, Floats, Gguf, Matrix as Place, Model, SlotLayout, TensorType};
use octet_kernels::{BlockMatrix, BlockType, Matrix};

use super::{
    BlockKind, CheckpointError, ExpertBiases, ExpertWeights, FileTotals, LayerTrunk, QuantSummary,
    Table, WeightKind,
};
use octet_spec::{Activation, ModelSpec};

/// An open model in GGUF.
#[derive(Debug)]
pub(super) struct GgufModel {
    gguf: Gguf,
    model: Model,
    activation: Activation,
    final_norm: Vec<f32>,
    layers: Vec<Vectors>,
    /// Layer by layer, `n_experts` each.
    experts: Vec<ExpertPlace>,
    n_experts: usize,
    /// Of the largest copy.
    expert_bytes: usize,
}

/// A layer's vectors, f32; empty where the model has none.
#[derive(Debug)]
struct Vectors {
    attn_norm: Vec<f32>,
    ffn_norm: Vec<f32>,
    q_norm: Vec<f32>,
    k_norm: Vec<f32>,
    sinks: Vec<f32>,
    gate_bias: Vec<f32>,
    biases: [Vec<f32>; 4],
    /// All experts' biases of gate, down and up projection, one expert's after the other's.
    experts: Option<[Vec<f32>; 3]>,
}

#[derive(Debug)]
struct ExpertPlace {
    expert: Expert,
    layout: SlotLayout,
}

/// Whether `path` is a GGUF file, or a folder with one and no checkpoint of another format.
pub fn is_at(path: &Path) -> bool {
    const MAGIC: &[u8; 4] = b"GGUF";
    let has_name = |path: &Path| {
        let extension = path.extension().unwrap_or_default();
        extension.eq_ignore_ascii_case("gguf")
    };
    // To open a pipe would wait for who writes to it.
    if path.is_file() {
        let mut magic = [0; 4];
        let file = std::fs::File::open(path);
        let read = file.and_then(|mut file| file.read_exact(&mut magic));
        return has_name(path) || (read.is_ok() && magic == *MAGIC);
    }
    if !path.is_dir() {
        return has_name(path);
    }
    if path.join(super::CONFIG_FILE).exists() {
        return false;
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .any(|path| has_name(&path))
}

impl GgufModel {
    /// Opens the model at `path` and checks every tensor's name, type and shape. Reads vectors only.
    pub(super) fn open(path: &Path) -> Result<(Self, ModelSpec), CheckpointError> {
        let gguf = Gguf::open(path)?;
        let of = |source| CheckpointError::GgufModel {
            path: gguf.path().to_owned(),
            source: Box::new(source),
        };
        let model = Model::read(&gguf).map_err(of)?;
        let spec = model.spec.clone();
        let floats = |floats: &Floats| -> Result<Vec<f32>, CheckpointError> {
            let tensor = model
                .trunk
                .iter()
                .find(|(_, info)| info.span == floats.span);
            let (name, info) = tensor.expect("BUG: a vector that is no tensor of the trunk");
            let values = gguf.read_f32(info)?;
            let values = values.expect("BUG: a vector that is not of floats");
            match values.iter().position(|value| !value.is_finite()) {
                None => Ok(values),
                Some(element) => Err(CheckpointError::NonFinite {
                    path: gguf.files()[floats.span.file].path().to_owned(),
                    tensor: name.clone(),
                    element,
                    value: values[element],
                }),
            }
        };
        let some = |vector: &Option<Floats>| vector.as_ref().map_or(Ok(Vec::new()), floats);
        let layers = model.layers.iter().map(|layer| {
            let experts = match &layer.expert_biases {
                Some(all) => Some([floats(&all.gate)?, floats(&all.down)?, floats(&all.up)?]),
                None => None,
            };
            Ok(Vectors {
                attn_norm: floats(&layer.attn_norm)?,
                ffn_norm: floats(&layer.ffn_norm)?,
                q_norm: some(&layer.q_norm)?,
                k_norm: some(&layer.k_norm)?,
                sinks: some(&layer.sinks)?,
                gate_bias: some(&layer.router.bias)?,
                biases: [
                    some(&layer.q.bias)?,
                    some(&layer.k.bias)?,
                    some(&layer.v.bias)?,
                    some(&layer.o.bias)?,
                ],
                experts,
            })
        });
        let layers = layers.collect::<Result<Vec<_>, CheckpointError>>()?;
        let final_norm = floats(&model.output_norm)?;
        let experts: Vec<ExpertPlace> = model
            .layers
            .iter()
            .flat_map(|layer| &layer.experts)
            .map(|expert| ExpertPlace {
                expert: *expert,
                layout: expert.slot_layout(),
            })
            .collect();
        let expert_bytes = experts.iter().map(|expert| expert.layout.bytes).max();
        let this = Self {
            activation: spec.activation,
            n_experts: spec.n_experts,
            expert_bytes: expert_bytes.unwrap_or(0) as usize,
            gguf,
            model,
            final_norm,
            layers,
            experts,
        };
        Ok((this, spec))
    }

    pub(super) fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// Reads the trunk and checks that no weight or scale is NaN or infinite.
    pub(super) fn check_trunk(&self) -> Result<(), CheckpointError> {
        let checked = self.model.check_trunk(&self.gguf);
        checked.map_err(|source| CheckpointError::GgufModel {
            path: self.gguf.path().to_owned(),
            source: Box::new(source),
        })
    }

    /// Names of the types that matrices have, each once.
    pub(super) fn types(&self) -> impl Iterator<Item = &'static str> {
        let trunk = self
            .attention()
            .chain([&self.model.embeddings, &self.model.output]);
        let experts = self
            .experts
            .iter()
            .flat_map(|place| matrices(&place.expert));
        let mut names: Vec<&'static str> = trunk.chain(experts).map(|it| it.ty.name()).collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter()
    }

    fn attention(&self) -> impl Iterator<Item = &Place> {
        let layers = self.model.layers.iter();
        layers.flat_map(|layer| [&layer.q, &layer.k, &layer.v, &layer.o].map(|it| &it.weight))
    }

    pub(super) fn files(&self) -> FileTotals {
        FileTotals {
            count: self.gguf.files().len(),
            bytes: self.gguf.len_bytes(),
        }
    }

    pub(super) fn experts_total_bytes(&self) -> u64 {
        self.experts.iter().map(|it| it.expert.len_bytes()).sum()
    }

    pub(super) fn trunk_bytes(&self) -> u64 {
        self.gguf.len_bytes() - self.experts_total_bytes()
    }

    /// Everything that a token reads of the trunk: of the embeddings a row, unless they are the
    /// output matrix too.
    pub(super) fn trunk_resident_bytes(&self) -> u64 {
        let tensors = self.model.trunk.iter().map(|(_, info)| info.span);
        let read = tensors
            .filter(|span| *span != self.model.embeddings.span || *span == self.model.output.span);
        read.map(|span| span.len).sum()
    }

    pub(super) fn quant_summary(&self) -> QuantSummary {
        QuantSummary {
            experts: kinds(self.experts.iter().flat_map(|it| matrices(&it.expert))),
            attention: kinds(self.attention()),
        }
    }

    pub(super) fn embedding(&self) -> Table<'_> {
        Table::Blocks(self.view(&self.model.embeddings))
    }

    pub(super) fn output(&self) -> Table<'_> {
        Table::Blocks(self.view(&self.model.output))
    }

    pub(super) fn final_norm(&self) -> &[f32] {
        &self.final_norm
    }

    pub(super) fn layer(&self, layer: usize) -> LayerTrunk<'_> {
        let (places, vectors) = (&self.model.layers[layer], &self.layers[layer]);
        let matrix = |place: &Place| Matrix::Blocks(self.view(place));
        LayerTrunk {
            input_layernorm: &vectors.attn_norm,
            post_attention_layernorm: &vectors.ffn_norm,
            gate: Table::Blocks(self.view(&places.router.weight)),
            gate_bias: &vectors.gate_bias,
            q_proj: matrix(&places.q.weight),
            k_proj: matrix(&places.k.weight),
            v_proj: matrix(&places.v.weight),
            o_proj: matrix(&places.o.weight),
            biases: vectors.biases.each_ref().map(Vec::as_slice),
            q_norm: &vectors.q_norm,
            k_norm: &vectors.k_norm,
            sinks: &vectors.sinks,
        }
    }

    pub(super) fn expert_bytes(&self) -> usize {
        self.expert_bytes
    }

    pub(super) fn expert_len(&self, i: usize) -> usize {
        self.experts[i].layout.bytes as usize
    }

    pub(super) fn expert_mapped(&self, i: usize) -> ExpertWeights<'_> {
        let expert = &self.experts[i].expert;
        self.weights(
            i,
            [&expert.gate, &expert.down, &expert.up].map(|it| self.view(it)),
        )
    }

    /// The expert's matrices in `bytes`, a copy that [`Self::read_expert`] made.
    pub(super) fn expert_view<'a>(&'a self, i: usize, bytes: &'a [u8]) -> ExpertWeights<'a> {
        let ExpertPlace { expert, layout } = &self.experts[i];
        let [gate, up, down] = layout.places;
        let view = |place: &Place, at: u64| {
            let (at, len) = (at as usize, place.span.len as usize);
            blocks(place, &bytes[at..at + len])
        };
        let matrices = [
            view(&expert.gate, gate),
            view(&expert.down, down),
            view(&expert.up, up),
        ];
        self.weights(i, matrices)
    }

    /// `matrices`: gate, down and up projection.
    fn weights<'a>(&'a self, i: usize, matrices: [BlockMatrix<'a>; 3]) -> ExpertWeights<'a> {
        let [w1, w2, w3] = matrices.map(Matrix::Blocks);
        let biases = self.layers[i / self.n_experts].experts.as_ref();
        let biases = biases.map(|all| {
            let [w1, w2, w3] = all.each_ref().map(|all| {
                let len = all.len() / self.n_experts;
                &all[i % self.n_experts * len..][..len]
            });
            ExpertBiases { w1, w2, w3 }
        });
        ExpertWeights {
            w1,
            w2,
            w3,
            activation: self.activation,
            biases,
        }
    }

    /// Copies an expert into the front of `buf` by positioned reads and checks the copy.
    pub(super) fn read_expert(&self, i: usize, buf: &mut [u8]) -> Result<(), CheckpointError> {
        for part in &self.experts[i].layout.parts {
            let (at, len) = (part.at as usize, part.span.len as usize);
            self.gguf.read(part.span, &mut buf[at..at + len])?;
        }
        self.check_expert(i, buf)
    }

    /// Checks a copy of an expert for scales, minima and floats that are not finite.
    pub(super) fn check_expert(&self, i: usize, bytes: &[u8]) -> Result<(), CheckpointError> {
        let ExpertPlace { expert, layout } = &self.experts[i];
        let places = [&expert.gate, &expert.up, &expert.down];
        for (place, at) in places.into_iter().zip(layout.places) {
            let (at, len) = (at as usize, place.span.len as usize);
            if let Some(block) = place.ty.first_non_finite(&bytes[at..at + len]) {
                return Err(CheckpointError::NonFiniteBlock {
                    path: self.gguf.files()[place.span.file].path().to_owned(),
                    expert: format!(
                        "expert {} of layer {}",
                        i % self.n_experts,
                        i / self.n_experts
                    ),
                    block,
                });
            }
        }
        Ok(())
    }

    pub(super) fn advise_will_need(&self, i: usize) {
        for part in &self.experts[i].layout.parts {
            self.gguf.advise_will_need(part.span);
        }
    }

    /// `range` counts as in a copy.
    pub(super) fn bring_in(&self, i: usize, range: Range<usize>) {
        let range = range.start as u64..range.end as u64;
        for part in &self.experts[i].layout.parts {
            let start = range.start.max(part.at);
            let end = range.end.min(part.at + part.span.len);
            if start < end {
                self.gguf
                    .bring_in(part.span.part(start - part.at, end - start));
            }
        }
    }

    fn view(&self, place: &Place) -> BlockMatrix<'_> {
        blocks(place, self.gguf.bytes(place.span))
    }
}

fn matrices(expert: &Expert) -> [&Place; 3] {
    [&expert.gate, &expert.up, &expert.down]
}

fn blocks<'a>(place: &Place, bytes: &'a [u8]) -> BlockMatrix<'a> {
    BlockMatrix::new(block_type(place.ty), (place.n, place.k), bytes)
        .expect("BUG: a tensor's length was checked when the file was opened")
}

/// The kernels' name of a type.
pub(crate) fn block_type(ty: TensorType) -> BlockType {
    match ty {
        TensorType::F32 => BlockType::F32,
        TensorType::F16 => BlockType::F16,
        TensorType::BF16 => BlockType::BF16,
        TensorType::Q4_0 => BlockType::Q4_0,
        TensorType::Q4_1 => BlockType::Q4_1,
        TensorType::Q5_0 => BlockType::Q5_0,
        TensorType::Q5_1 => BlockType::Q5_1,
        TensorType::Q8_0 => BlockType::Q8_0,
        TensorType::Q2_K => BlockType::Q2_K,
        TensorType::Q3_K => BlockType::Q3_K,
        TensorType::Q4_K => BlockType::Q4_K,
        TensorType::Q5_K => BlockType::Q5_K,
        TensorType::Q6_K => BlockType::Q6_K,
        TensorType::IQ2_XXS => BlockType::IQ2_XXS,
        TensorType::IQ2_XS => BlockType::IQ2_XS,
        TensorType::IQ2_S => BlockType::IQ2_S,
        TensorType::IQ3_XXS => BlockType::IQ3_XXS,
        TensorType::IQ3_S => BlockType::IQ3_S,
        TensorType::IQ4_NL => BlockType::IQ4_NL,
        TensorType::IQ4_XS => BlockType::IQ4_XS,
        TensorType::MXFP4 => BlockType::MXFP4,
    }
}

/// The types among `matrices`; what takes most bytes first.
fn kinds<'a>(matrices: impl Iterator<Item = &'a Place>) -> Vec<WeightKind> {
    let mut kinds: Vec<BlockKind> = Vec::new();
    for place in matrices {
        let name = place.ty.name();
        let kind = match kinds.iter_mut().find(|kind| kind.name == name) {
            Some(kind) => kind,
            None => {
                kinds.push(BlockKind {
                    name,
                    bits: 8.0 * place.ty.block_bytes() as f64 / place.ty.block_len() as f64,
                    matrices: 0,
                    bytes: 0,
                });
                kinds.last_mut().expect("BUG: just pushed")
            }
        };
        kind.matrices += 1;
        kind.bytes += place.span.len;
    }
    kinds.sort_by_key(|kind| std::cmp::Reverse(kind.bytes));
    kinds.into_iter().map(WeightKind::Blocks).collect()
}
