//! The sparse mixture of experts: routing, and the experts' share of the residual stream.

use octet_kernels::{Precision, Scratch, ops};

use super::{Cpu, PassMeter, Step, expert_forward, sized, values};
use crate::checkpoint::ExpertId;
use crate::error::EngineError;
use crate::experts::{Claim, ClaimsAhead, PROMPT_WINDOW, Place, RoutingStats};
use crate::plan::needs::CpuBuffers;
use crate::spec::{ModelSpec, Router, RouterScore};

/// Buffers of the block, f32 and reused.
#[derive(Default)]
pub(super) struct Buffers {
    /// `(t, n_experts)`.
    router: Vec<f32>,
    /// The next layer's router on this layer's state, `(1, n_experts)`.
    guess: Vec<f32>,
    /// The router's input for the guess, `(1, hidden)`.
    guess_normed: Vec<f32>,
    /// One token's experts and weights.
    chosen: Vec<(u16, f32)>,
    /// What each expert has to do, by expert.
    work: Vec<Work>,
    /// The experts at work, in the order they are computed.
    order: Vec<u16>,
    claims: ClaimsAhead,
    guessed: Vec<ExpertId>,
    /// What the token before used in the next layer.
    next_previous: Vec<u16>,
    /// Rows of one expert's tokens, `(rows, hidden)`.
    gathered: Vec<f32>,
    /// `(rows, intermediate)`.
    gate: Vec<f32>,
    /// `(rows, intermediate)`.
    up: Vec<f32>,
    /// `(rows, hidden)`.
    down: Vec<f32>,
}

/// One expert's tokens.
#[derive(Default, Clone)]
struct Work {
    /// Rows of the batch.
    rows: Vec<usize>,
    /// The routing weight of each.
    weights: Vec<f32>,
}

/// The `top_k` experts of one token with their weights, best first, into `chosen`.
///
/// Weights of all `logits` (one per expert), of which the largest `top_k` are kept, and brought to
/// sum 1 where the router does that (Mixtral of Experts, section 2.1); ties go to the lower number.
pub fn route(router: &Router, logits: &mut [f32], top_k: usize, chosen: &mut Vec<(u16, f32)>) {
    match router.score {
        RouterScore::Softmax => ops::softmax(logits),
        RouterScore::Sigmoid => ops::sigmoid(logits),
    }
    chosen.clear();
    for _ in 0..top_k {
        let taken = |e: usize| chosen.iter().any(|c| usize::from(c.0) == e);
        let left = logits.iter().enumerate().filter(|(e, _)| !taken(*e));
        let best = left.reduce(|best, next| if next.1 > best.1 { next } else { best });
        let Some((expert, &weight)) = best else { break };
        chosen.push((expert as u16, weight));
    }
    if router.renormalizes {
        let sum: f32 = chosen.iter().map(|(_, weight)| weight).sum();
        for (_, weight) in chosen.iter_mut() {
            *weight /= sum;
        }
    }
    if router.scale != 1.0 {
        for (_, weight) in chosen {
            *weight *= router.scale;
        }
    }
}

fn at_work(work: &[Work]) -> impl Iterator<Item = u16> {
    let work = work.iter().enumerate();
    work.filter(|(_, work)| !work.rows.is_empty())
        .map(|(expert, _)| expert as u16)
}

impl Buffers {
    pub(super) fn new(bytes: &CpuBuffers) -> Self {
        Self {
            router: values(bytes.router),
            gathered: values(bytes.gathered),
            gate: values(bytes.gate),
            up: values(bytes.up),
            down: values(bytes.down),
            ..Self::default()
        }
    }

    /// Those whose bytes are counted.
    #[cfg(test)]
    pub(super) fn counted(&self) -> [&Vec<f32>; 5] {
        [
            &self.router,
            &self.gathered,
            &self.gate,
            &self.up,
            &self.down,
        ]
    }

    /// Routes every token of `router`, as changed by `adapt`, and notes what each expert has to
    /// do.
    fn assign(&mut self, c: &ModelSpec, adapt: impl Fn(&mut [(u16, f32)])) {
        self.work.resize(c.n_experts, Work::default());
        for work in &mut self.work {
            work.rows.clear();
            work.weights.clear();
        }
        for (row, logits) in self.router.chunks_exact_mut(c.n_experts).enumerate() {
            route(&c.router, logits, c.top_k, &mut self.chosen);
            adapt(&mut self.chosen);
            for &(expert, weight) in &self.chosen {
                let work = &mut self.work[usize::from(expert)];
                work.rows.push(row);
                work.weights.push(weight);
            }
        }
    }

    /// The experts that tokens chose, by number.
    fn at_work(&self) -> impl Iterator<Item = u16> {
        at_work(&self.work)
    }

    /// Adds the weighted outputs of one token's experts to its `hidden`, by number: the sum is the
    /// same in whichever order they were computed.
    fn add_to(&self, hidden: &mut [f32]) {
        let outputs = self.down.chunks_exact(hidden.len());
        for (output, expert) in outputs.zip(self.at_work()) {
            let weight = self.work[usize::from(expert)].weights[0];
            ops::add_scaled(hidden, weight, output);
        }
    }

    /// How many tokens chose `expert`.
    fn rows(&self, expert: u16) -> usize {
        self.work[usize::from(expert)].rows.len()
    }

    /// How many experts more tokens chose than `expert`; ties go to the lower number.
    fn rank(&self, expert: u16) -> usize {
        let rows = self.rows(expert);
        let before = |e: u16| self.rows(e) > rows || (self.rows(e) == rows && e < expert);
        (0..self.work.len() as u16).filter(|&e| before(e)).count()
    }
}

impl Cpu {
    /// The sparse block of `layer`: `hidden += sum of weight * expert(norm(hidden))`.
    pub(super) fn moe(
        &self,
        step: Step<'_>,
        routing: &mut RoutingStats,
        scratch: &mut Scratch,
        buffers: &mut super::Buffers,
        meter: &mut PassMeter<'_>,
    ) -> Result<(), EngineError> {
        let Step { layer, t, hook, .. } = step;
        let (experts, c) = (&*self.host.experts, self.host.spec());
        let trunk = self.host.checkpoint.layer(layer);
        let super::Buffers {
            hidden,
            normed,
            moe,
            ..
        } = buffers;
        let normed = sized(normed, t * c.hidden_size);
        let eps = c.rms_norm_eps as f32;
        ops::rms_norm(hidden, trunk.post_attention_layernorm, eps, normed);
        let router = sized(&mut moe.router, t * c.n_experts);
        self.router(layer, scratch, normed, router);
        moe.assign(c, |chosen| {
            if let Some(hook) = hook {
                hook.adapt(layer, &routing.newest()[layer], chosen);
            }
        });
        moe.next_previous.clear();
        if hook.is_some()
            && let Some(next) = routing.newest().get(layer + 1)
        {
            moe.next_previous.extend_from_slice(next);
        }
        moe.order.clear();
        if t == 1 {
            moe.order
                .extend(moe.chosen.iter().map(|(expert, _)| *expert));
            routing.note(layer, &moe.order);
            let missed = |e: &u16| !experts.is_in_fastest(expert_id(layer, *e));
            routing.note_missed(layer, moe.order.iter().copied().filter(missed));
            // What is there already is computed while the rest is on its way.
            moe.order
                .sort_by_key(|&expert| !experts.contains(expert_id(layer, expert)));
        } else {
            // Sums of f32 depend on the order, and must not depend on what is in memory.
            moe.order.extend(at_work(&moe.work));
        }

        self.run_experts(step, hidden, normed, scratch, moe, meter)
    }

    /// The router's logits, f32 `(t, n_experts)`. Never rounded: that flips choices.
    fn router(&self, layer: usize, scratch: &mut Scratch, normed: &[f32], logits: &mut [f32]) {
        let trunk = self.host.checkpoint.layer(layer);
        let gate = (trunk.gate, self.host.spec().n_experts);
        self.multiply(scratch, gate, Precision::Exact, normed, logits);
        ops::add_bias(logits, trunk.gate_bias);
    }

    /// Computes the experts in `moe.order`, claiming a few ahead.
    ///
    /// Demands go first, then the guess for the next layer: reads of what is needed now must not
    /// wait for reads of what may be.
    fn run_experts(
        &self,
        step: Step<'_>,
        hidden: &mut [f32],
        normed: &[f32],
        scratch: &mut Scratch,
        moe: &mut Buffers,
        meter: &mut PassMeter<'_>,
    ) -> Result<(), EngineError> {
        let Step { layer, t, .. } = step;
        let (experts, c) = (&*self.host.experts, self.host.spec());
        let window = if t == 1 { c.top_k } else { PROMPT_WINDOW };
        // Left empty after an error: claims are given back when they are dropped.
        let mut claims = std::mem::take(&mut moe.claims);
        claims.begin(moe.order.len(), window);
        let mut rows_done = 0;
        loop {
            meter.experts(rows_done, t * c.top_k)?;
            claims.fill(|i| {
                let expert = moe.order[i];
                experts.claim(expert_id(layer, expert), moe.rows(expert))
            })?;
            if claims.claimed() <= window {
                self.prefetch_next(step, hidden, scratch, moe);
            }
            let Some(mut claim) = claims.pop() else {
                moe.claims = claims;
                if t == 1 {
                    moe.add_to(hidden);
                }
                return Ok(());
            };
            self.run_expert(&mut claim, hidden, normed, scratch, moe)?;
            let id = claim.id();
            rows_done += moe.rows(id.expert);
            if t > 1 {
                experts.done_in_prompt(id, moe.rank(id.expert));
            }
        }
    }

    /// `hidden[row] += weight * expert(normed[row])` for the rows of the claimed expert. Of one
    /// token the outputs wait for [`Buffers::add_to`]: experts are computed as they arrive.
    fn run_expert(
        &self,
        claim: &mut Claim,
        hidden: &mut [f32],
        normed: &[f32],
        scratch: &mut Scratch,
        moe: &mut Buffers,
    ) -> Result<(), EngineError> {
        let c = self.host.spec();
        let (width, inner) = (c.hidden_size, c.intermediate_size);
        let is_one_token = hidden.len() == width;
        let place = match is_one_token {
            true => moe.at_work().take_while(|e| *e < claim.id().expert).count(),
            false => 0,
        };
        let places = if is_one_token { c.top_k } else { 1 };
        let Buffers {
            work,
            gathered,
            gate,
            up,
            down,
            ..
        } = moe;
        let id = claim.id();
        let Work { rows, weights } = &work[usize::from(id.expert)];
        let x = if rows.len() * width == normed.len() {
            normed
        } else {
            let gathered = sized(gathered, rows.len() * width);
            for (to, &row) in gathered.chunks_exact_mut(width).zip(rows) {
                to.copy_from_slice(&normed[row * width..(row + 1) * width]);
            }
            gathered
        };
        let len = rows.len() * width;
        let down = &mut sized(down, places * len)[place * len..][..len];
        match claim.wait()? {
            Place::Device(device, slot) => device
                .forward(slot, id, x, down)
                .map_err(|reason| EngineError::Device { reason })?,
            Place::Ram(weights) => {
                let gate = sized(gate, rows.len() * inner);
                let up = sized(up, rows.len() * inner);
                expert_forward(
                    &self.host.pool,
                    scratch,
                    self.host.precision,
                    &weights,
                    x,
                    (gate, up),
                    down,
                );
            }
        }
        if is_one_token {
            return Ok(());
        }
        for ((from, &row), &weight) in down.chunks_exact(width).zip(rows).zip(weights) {
            ops::add_scaled(&mut hidden[row * width..(row + 1) * width], weight, from);
        }
        Ok(())
    }

    /// Guesses the next layer's experts from this layer's state of the newest token, by that
    /// layer's own norm and router (arXiv 2312.17238, section 3.2), and starts their fetches.
    fn prefetch_next(
        &self,
        step: Step<'_>,
        hidden: &[f32],
        scratch: &mut Scratch,
        moe: &mut Buffers,
    ) {
        let Step { layer, t, hook, .. } = step;
        let (experts, c) = (&*self.host.experts, self.host.spec());
        let wanted = experts.prefetch_count();
        if wanted == 0 || t > 1 || layer + 1 == c.n_layers {
            return;
        }
        let trunk = self.host.checkpoint.layer(layer + 1);
        let normed = sized(&mut moe.guess_normed, c.hidden_size);
        let eps = c.rms_norm_eps as f32;
        ops::rms_norm(hidden, trunk.post_attention_layernorm, eps, normed);
        let logits = sized(&mut moe.guess, c.n_experts);
        self.router(layer + 1, scratch, normed, logits);
        route(&c.router, logits, wanted.max(c.top_k), &mut moe.chosen);
        if let Some(hook) = hook {
            hook.adapt(layer + 1, &moe.next_previous, &mut moe.chosen);
        }
        moe.guessed.clear();
        moe.guessed.extend(
            moe.chosen
                .iter()
                .take(wanted)
                .map(|(expert, _)| expert_id(layer + 1, *expert)),
        );
        experts.prefetch(&moe.guessed);
    }
}

fn expert_id(layer: usize, expert: u16) -> ExpertId {
    ExpertId {
        layer: layer as u16,
        expert,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routing_keeps_the_best_and_sums_to_one() {
        let mut chosen = Vec::new();
        route(
            &ModelSpec::mixtral().router,
            &mut [0.1, 2.0, -1.0, 2.0, 0.5],
            2,
            &mut chosen,
        );
        let experts: Vec<u16> = chosen.iter().map(|(e, _)| *e).collect();
        assert_eq!(experts, [1, 3], "ties go to the lower number");
        assert!((chosen[0].1 - 0.5).abs() < 1e-6 && (chosen[1].1 - 0.5).abs() < 1e-6);
    }
}
