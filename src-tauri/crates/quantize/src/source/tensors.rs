//! Which bytes of the source are which matrix.
//!
//! # The layouts of transformers
//! Up to version 4 every expert's matrices are tensors of their own,
//! `model.layers.L.block_sparse_moe.experts.E.{w1,w2,w3}.weight` (gate and up, `w1` and `w3`, are
//! (intermediate, hidden); down, `w2`, is (hidden, intermediate)), with the router at
//! `model.layers.L.block_sparse_moe.gate.weight`. Version 5 keeps the experts of a layer together,
//! as `model.layers.L.mlp.experts.gate_up_proj`, (experts, 2 * intermediate, hidden) with all rows
//! of the gate in front of those of up, and `model.layers.L.mlp.experts.down_proj`, (experts,
//! hidden, intermediate), with the router at `model.layers.L.mlp.gate.weight`; it saves the older
//! form unless told otherwise. Either form is taken under either parent. Sources:
//! `models/mixtral/modeling_mixtral.py` of 4.36 to 5.23, `conversion_mapping.py` of 5.0 to 5.23.
//!
//! Fused tensors are also taken with their last two dimensions exchanged, the form that other
//! models of transformers have: (experts, hidden, 2 * intermediate) and (experts, intermediate,
//! hidden). Shapes tell. Where one of the two is square it has the orientation of the other; both
//! cannot be.

use std::collections::BTreeSet;

use octet_checkpoint::hqq::schema;
use octet_checkpoint::{TensorInfo, shorten};
use safetensors::Dtype;

use super::Source;
use crate::error::QuantizeError;

const PARENTS: [&str; 2] = ["block_sparse_moe", "mlp"];

/// A tensor, or a part of one, with float elements.
#[derive(Debug, Clone)]
pub(crate) struct TensorSource {
    pub(super) file: usize,
    pub(super) tensor: String,
    pub(super) dtype: Dtype,
    /// Where the part begins in the file.
    pub(super) start: u64,
    /// Elements of the tensor in front of the part.
    pub(super) first_element: u64,
    /// Elements of the part.
    pub(super) elements: u64,
}

impl TensorSource {
    /// Bytes of the part in the source.
    pub(crate) fn bytes(&self) -> u64 {
        self.elements * self.element_bytes()
    }

    pub(super) fn element_bytes(&self) -> u64 {
        self.dtype.bitsize() as u64 / 8
    }

    pub(crate) fn dtype(&self) -> Dtype {
        self.dtype
    }
}

/// A matrix of `n` rows (out) and `k` columns (in) in the source.
#[derive(Debug, Clone)]
pub(crate) struct MatrixSource {
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// What is read; for a transposed matrix from its first to its last element.
    pub(crate) tensor: TensorSource,
    /// `None`: row-major. `Some(stride)`: column `c` is the `n` elements from `c * stride` on.
    pub(super) columns_apart: Option<u64>,
}

impl MatrixSource {
    /// Bytes of the matrix in the source.
    pub(crate) fn bytes(&self) -> u64 {
        (self.n * self.k) as u64 * self.tensor.element_bytes()
    }
}

/// An expert's matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExpertPart {
    /// `w1`, (intermediate, hidden).
    Gate,
    /// `w2`, (hidden, intermediate).
    Down,
    /// `w3`, (intermediate, hidden).
    Up,
}

impl ExpertPart {
    pub(crate) const ALL: [Self; 3] = [Self::Gate, Self::Down, Self::Up];

    /// Its name in checkpoints.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gate => "w1",
            Self::Down => "w2",
            Self::Up => "w3",
        }
    }
}

/// How the source keeps its experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExpertForm {
    /// Every matrix a tensor.
    Separate,
    /// All experts of a layer in two tensors.
    Fused,
}

/// Finds the tensors of a model by what they are for, and keeps account of which were found.
pub(crate) struct Roles<'a> {
    source: &'a Source,
    used: BTreeSet<String>,
    form: ExpertForm,
}

impl<'a> Roles<'a> {
    pub(crate) fn new(source: &'a Source) -> Self {
        Self {
            source,
            used: BTreeSet::new(),
            form: ExpertForm::Separate,
        }
    }

    /// How the experts found so far are kept; fused if any of them is.
    pub(crate) fn form(&self) -> ExpertForm {
        self.form
    }

    /// The tensor `name`, of exactly `shape`.
    pub(crate) fn dense(
        &mut self,
        name: &str,
        shape: &[usize],
    ) -> Result<TensorSource, QuantizeError> {
        let (file, info) = self.find(name)?;
        self.expect(name, &[shape])?;
        Ok(self.part(name, file, info, 0, info.elements()))
    }

    /// The router of a layer, (experts, hidden).
    pub(crate) fn router(&mut self, layer: usize) -> Result<TensorSource, QuantizeError> {
        let config = self.source.spec();
        let name = |parent| format!("model.layers.{layer}.{parent}.gate.weight");
        let name = self.first_of(PARENTS.map(name));
        self.dense(&name, &[config.n_experts, config.hidden_size])
    }

    /// The matrix `name`, `n` x `k`.
    pub(crate) fn matrix(
        &mut self,
        name: &str,
        (n, k): (usize, usize),
    ) -> Result<MatrixSource, QuantizeError> {
        Ok(MatrixSource {
            n,
            k,
            tensor: self.dense(name, &[n, k])?,
            columns_apart: None,
        })
    }

    /// A matrix of an expert.
    pub(crate) fn expert(
        &mut self,
        layer: usize,
        expert: usize,
        part: ExpertPart,
    ) -> Result<MatrixSource, QuantizeError> {
        let config = self.source.spec();
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let (n, k) = match part {
            ExpertPart::Gate | ExpertPart::Up => (intermediate, hidden),
            ExpertPart::Down => (hidden, intermediate),
        };
        let separate = PARENTS.map(|parent| {
            let part = part.name();
            format!("model.layers.{layer}.{parent}.experts.{expert}.{part}.weight")
        });
        let fused = PARENTS.map(|parent| format!("model.layers.{layer}.{parent}.experts"));
        if let Some(parent) = fused
            .into_iter()
            .find(|parent| self.has(&format!("{parent}.gate_up_proj")))
            && !separate.iter().any(|name| self.has(name))
        {
            return self.fused_expert(&parent, expert, part, (n, k));
        }
        let name = self.first_of(separate);
        self.matrix(&name, (n, k))
    }

    /// A matrix of an expert out of the tensors that hold a layer's experts together.
    fn fused_expert(
        &mut self,
        parent: &str,
        expert: usize,
        part: ExpertPart,
        (n, k): (usize, usize),
    ) -> Result<MatrixSource, QuantizeError> {
        self.form = ExpertForm::Fused;
        let transposed = self.is_transposed(parent)?;
        let (name, rows, first_row) = match part {
            ExpertPart::Gate => ("gate_up_proj", 2 * n, 0),
            ExpertPart::Up => ("gate_up_proj", 2 * n, n),
            ExpertPart::Down => ("down_proj", n, 0),
        };
        let name = format!("{parent}.{name}");
        let (file, info) = self.find(&name)?;
        // An expert is `rows` x `k` of out and in, of which this matrix is `n` rows.
        let first = (expert * rows * k) as u64;
        Ok(if transposed {
            let elements = (k - 1) * rows + n;
            MatrixSource {
                n,
                k,
                tensor: self.part(&name, file, info, first + first_row as u64, elements as u64),
                columns_apart: Some(rows as u64),
            }
        } else {
            let first = first + (first_row * k) as u64;
            MatrixSource {
                n,
                k,
                tensor: self.part(&name, file, info, first, (n * k) as u64),
                columns_apart: None,
            }
        })
    }

    /// Checks the shapes of a layer's fused tensors and tells whether they are transposed.
    fn is_transposed(&self, parent: &str) -> Result<bool, QuantizeError> {
        let config = self.source.spec();
        let (e, h, i) = (
            config.n_experts,
            config.hidden_size,
            config.intermediate_size,
        );
        let (gate_up, down) = (
            format!("{parent}.gate_up_proj"),
            format!("{parent}.down_proj"),
        );
        self.expect(&gate_up, &[&[e, 2 * i, h], &[e, h, 2 * i]])?;
        self.expect(&down, &[&[e, h, i], &[e, i, h]])?;
        let shows_transposed = |name: &str, transposed: [usize; 2]| -> Result<_, QuantizeError> {
            if transposed[0] == transposed[1] {
                return Ok(None);
            }
            let (_, info) = self.find_untold(name)?;
            let dims = info.shape.dims();
            Ok(Some(
                dims[1] == transposed[0] as u64 && dims[2] == transposed[1] as u64,
            ))
        };
        let by_gate_up = shows_transposed(&gate_up, [h, 2 * i])?;
        let by_down = shows_transposed(&down, [i, h])?;
        match (by_gate_up, by_down) {
            (Some(a), Some(b)) if a != b => {
                let orient = |transposed: bool| if transposed { [i, h] } else { [h, i] };
                let [rows, columns] = orient(a);
                Err(self.wrong(
                    &down,
                    format!("[{e}, {rows}, {columns}], as `{gate_up}` is laid out"),
                ))
            }
            (Some(transposed), _) | (None, Some(transposed)) => Ok(transposed),
            (None, None) => Ok(false),
        }
    }

    /// Refuses tensors that were not asked for: the model that comes out would be another one.
    ///
    /// Older versions of transformers saved the rotary embedding's frequencies, which follow from
    /// the configuration; and an output matrix that is the embedding matrix may be given again.
    pub(crate) fn refuse_unused(&self) -> Result<(), QuantizeError> {
        let config = self.source.spec();
        let known = |name: &str| {
            name.ends_with(".rotary_emb.inv_freq")
                || (config.tie_word_embeddings && name == schema::LM_HEAD)
        };
        let unused = |name: &&String| !self.used.contains(*name) && !known(name);
        match self.source.places.keys().find(unused) {
            None => Ok(()),
            Some(name) => Err(QuantizeError::Unknown {
                path: self.path(self.source.places[name]),
                tensor: shorten(name),
                layers: config.n_layers,
                experts: config.n_experts,
            }),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.source.places.contains_key(name)
    }

    /// The first of `names` that there is, or just the first.
    fn first_of(&self, names: [String; 2]) -> String {
        let [first, second] = names;
        if !self.has(&first) && self.has(&second) {
            second
        } else {
            first
        }
    }

    fn find(&mut self, name: &str) -> Result<(usize, &'a TensorInfo), QuantizeError> {
        let found = self.find_untold(name)?;
        self.used.insert(name.to_owned());
        Ok(found)
    }

    fn find_untold(&self, name: &str) -> Result<(usize, &'a TensorInfo), QuantizeError> {
        self.source
            .places
            .get(name)
            .and_then(|&file| Some((file, self.source.files[file].header().tensors.get(name)?)))
            .ok_or_else(|| QuantizeError::Missing {
                dir: self.source.dir.clone(),
                tensor: name.to_owned(),
                files: self.source.files.len(),
            })
    }

    fn part(
        &self,
        name: &str,
        file: usize,
        info: &TensorInfo,
        first_element: u64,
        elements: u64,
    ) -> TensorSource {
        let element_bytes = info.dtype.bitsize() as u64 / 8;
        TensorSource {
            file,
            tensor: name.to_owned(),
            dtype: info.dtype,
            start: info.start + first_element * element_bytes,
            first_element,
            elements,
        }
    }

    /// Checks that a tensor is of float elements and one of `shapes`.
    fn expect(&self, name: &str, shapes: &[&[usize]]) -> Result<(), QuantizeError> {
        let (_, info) = self.find_untold(name)?;
        let same = |shape: &&[usize]| {
            let found = info.shape.dims();
            found.len() == shape.len() && found.iter().zip(*shape).all(|(&a, &b)| a == b as u64)
        };
        let float = matches!(info.dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32);
        if float && shapes.iter().any(same) {
            return Ok(());
        }
        let shapes: Vec<String> = shapes.iter().map(|shape| format!("{shape:?}")).collect();
        Err(self.wrong(name, format!("F32, F16 or BF16 {}", shapes.join(" or "))))
    }

    fn wrong(&self, name: &str, expected: String) -> QuantizeError {
        let (path, found) = match self.find_untold(name) {
            Ok((file, info)) => (self.path(file), format!("{} {:?}", info.dtype, info.shape)),
            Err(_) => (self.source.dir.clone(), "nothing".to_owned()),
        };
        QuantizeError::Tensor {
            path,
            tensor: name.to_owned(),
            expected,
            found,
        }
    }

    fn path(&self, file: usize) -> std::path::PathBuf {
        self.source.files[file].path().to_owned()
    }
}
