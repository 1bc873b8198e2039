//! The experts of a chunk of tokens: layer by layer, each expert once for all its tokens, the next
//! ones' copies under the work of this one.

use octet_kernels::cuda::{CudaError, DeviceExpert, RouterJob, Routing, Rows, Slice};

use super::GpuModel;
use super::forward::Pass;
use super::in_use::InUse;
use crate::backend::PassMeter;
use crate::checkpoint::ExpertId;
use crate::error::EngineError;
use crate::experts::{ClaimsAhead, PROMPT_WINDOW};

/// Experts of the next layer whose copies start under the last ones of this layer.
const READ_AHEAD: usize = 2;

/// One expert's part of a chunk: where its tokens begin in the lists, and how many there are.
struct Part {
    expert: u16,
    start: usize,
    rows: usize,
}

impl GpuModel {
    /// `hidden += sum of weight * expert(norm(hidden))` for every token.
    pub(super) fn prefill_experts(
        &self,
        pass: &mut Pass<'_>,
        layer: usize,
        meter: &mut PassMeter<'_>,
    ) -> Result<(), EngineError> {
        let mut parts = self.route_many(pass, layer)?;
        let experts = &pass.host.experts;
        let rank = ranks(&parts);
        // What is there already is computed while the rest is on its way.
        parts.sort_by_key(|part| !experts.is_in_fastest(id(layer, part.expert)));
        let c = pass.host.checkpoint.spec();
        let work = &*pass.work;
        if !self.exact {
            let (x, y) = (work.normed(), work.x16.slice());
            let scale = work.x_scale.slice();
            self.ops
                .rows_to_f16(&self.compute, pass.t, c.hidden_size, x, y, scale)?;
        }
        let mut claims = ClaimsAhead::default();
        claims.begin(parts.len(), PROMPT_WINDOW);
        let mut rows_done = 0;
        for part in &parts {
            meter.experts(rows_done, pass.t * c.top_k)?;
            claims.fill(|i| experts.demand_on_device(id(layer, parts[i].expert)))?;
            if claims.claimed() == parts.len() && layer + 1 < c.n_layers {
                self.read_ahead(pass, layer + 1);
            }
            let mut claim = claims
                .pop()
                .expect("BUG: a part of a chunk without a claim");
            claim.wait()?;
            let (id, mut in_use) = (claim.id(), InUse::new(self));
            let slot = in_use.push(claim);
            self.compute_part(pass, part, &self.slots.expert(slot))?;
            in_use.release()?;
            experts.done_in_prompt(id, rank[usize::from(part.expert)]);
            rows_done += part.rows;
        }
        Ok(())
    }

    /// Routes the chunk and brings each expert's tokens and weights to the GPU.
    fn route_many(&self, pass: &mut Pass<'_>, layer: usize) -> Result<Vec<Part>, EngineError> {
        let c = pass.host.checkpoint.spec();
        let (t, top_k, s) = (pass.t, c.top_k, &self.compute);
        let trunk = &self.trunk.layers[layer];
        let work = &mut *pass.work;
        let job = RouterJob {
            norm: trunk.expert_norm(),
            gate: trunk.gate(),
            normed: Some((work.normed(), work.normed_amax())),
            ids: work.ids.slice(),
            weights: work.weights.slice(),
            previous: None,
            newest: None,
            clear: None,
            layer,
        };
        let (hidden, eps) = (work.hidden(), c.rms_norm_eps as f32);
        let jobs = [Some(job), None];
        self.ops.router(
            s,
            Routing {
                t,
                hidden,
                eps,
                top_k,
                jobs,
                moment: None,
            },
        )?;
        let all = t * top_k;
        let staging = &mut work.staging;
        // SAFETY: nobody touches the staging before the wait.
        unsafe {
            let ids = work.ids.slice().part(0, all);
            s.download::<i32>(ids, staging.ids.values_mut(0, all))?;
            let weights = work.weights.slice().part(0, all);
            s.download::<f32>(weights, staging.weights.values_mut(0, all))?;
        }
        s.synchronize()?;
        let ids = staging.ids.values::<i32>(0, all);
        let weights = staging.weights.values::<f32>(0, all);
        let rows = staging.rows.values_mut::<i32>(0, all);
        let row_weights = staging.row_weights.values_mut::<f32>(0, all);
        let mut parts = Vec::with_capacity(c.n_experts);
        let mut at = 0;
        for expert in 0..c.n_experts {
            let start = at;
            for (i, _) in ids.iter().enumerate().filter(|(_, e)| **e == expert as i32) {
                rows[at] = (i / top_k) as i32;
                row_weights[at] = weights[i];
                at += 1;
            }
            if at > start {
                parts.push(Part {
                    expert: expert as u16,
                    start,
                    rows: at - start,
                });
            }
        }
        // SAFETY: rewritten in the next layer, after that layer's wait.
        unsafe {
            s.upload::<i32>(staging.rows.values(0, all), work.rows.slice().part(0, all))?;
            let to = work.row_weights.slice().part(0, all);
            s.upload::<f32>(staging.row_weights.values(0, all), to)?;
        }
        Ok(parts)
    }

    /// One expert for its tokens.
    fn compute_part(
        &self,
        pass: &Pass<'_>,
        part: &Part,
        expert: &DeviceExpert,
    ) -> Result<(), CudaError> {
        let (work, s, ops) = (&*pass.work, &self.compute, &*self.ops);
        let (t, inner) = (part.rows, expert.w1.n());
        let tokens: Slice<'_, i32> = work.rows.slice().part(part.start, t);
        let weights = work.row_weights.slice().part(part.start, t);
        let (gate, up) = (
            work.gate.slice().part(0, t * inner),
            work.up.slice().part(0, t * inner),
        );
        let gather = Rows {
            t,
            gather: Some(tokens),
            ..Rows::default()
        };
        let scatter = Rows {
            t,
            scatter: Some(tokens),
            weights: Some(weights),
            add: true,
            ..Rows::default()
        };
        let hidden = work.hidden();
        let all = [expert.w1, expert.w2, expert.w3];
        if self.exact || !all.iter().all(|m| m.is_regular_in_prefill()) {
            let normed = work.normed();
            ops.matvec_any(s, expert.w1, normed, gate, gather)?;
            ops.matvec_any(s, expert.w3, normed, up, gather)?;
            ops.silu_mul(s, gate, up, None)?;
            return ops.matvec_any(s, expert.w2, gate, hidden, scatter);
        }
        let x = (work.x16.slice(), work.x_scale.slice());
        ops.gemm(s, expert.w1, x, gate, gather)?;
        ops.gemm(s, expert.w3, x, up, gather)?;
        let h = (work.h16.slice(), work.h_scale.slice());
        ops.silu_mul_rows(s, (t, inner), (gate, up), (h.0, h.1))?;
        ops.gemm(s, expert.w2, h, hidden, scatter)
    }

    /// Starts the copies of the first experts that `layer` lacks.
    fn read_ahead(&self, pass: &Pass<'_>, layer: usize) {
        let experts = &pass.host.experts;
        let n_experts = pass.host.checkpoint.spec().n_experts as u16;
        let ids: Vec<ExpertId> = (0..n_experts)
            .map(|expert| id(layer, expert))
            .filter(|id| !experts.is_in_fastest(*id))
            .take(READ_AHEAD)
            .collect();
        experts.prefetch(&ids);
    }
}

/// By expert: how many others have more tokens; ties go to the lower number.
fn ranks(parts: &[Part]) -> Vec<usize> {
    let most = parts.iter().map(|p| usize::from(p.expert) + 1).max();
    let mut ranks = vec![0; most.unwrap_or(0)];
    for part in parts {
        let before =
            |p: &&Part| p.rows > part.rows || (p.rows == part.rows && p.expert < part.expert);
        ranks[usize::from(part.expert)] = parts.iter().filter(before).count();
    }
    ranks
}

fn id(layer: usize, expert: u16) -> ExpertId {
    ExpertId {
        layer: layer as u16,
        expert,
    }
}
