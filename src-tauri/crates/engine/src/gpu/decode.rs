//! The experts of one token: hits on the card, misses fetched or computed on the CPU meanwhile.

use std::sync::Arc;

use octet_kernels::Scratch;
use octet_kernels::cuda::{CudaError, DeviceExpert, Picks, Reuse, RouterJob, Rows, Slice};

use super::GpuModel;
use super::forward::Pass;
use crate::checkpoint::ExpertId;
use crate::error::EngineError;
use crate::experts::{Claim, Miss, Place, RoutingStats};
use crate::model::{RoutingReuse, expert_forward};

/// A token's choice that is not on the card yet.
struct Missing {
    /// Its number among the router's choices.
    j: usize,
    claim: Claim,
}

impl GpuModel {
    /// `hidden += sum of weight * expert(norm(hidden))` for one token.
    pub(super) fn decode_experts(
        &self,
        pass: &mut Pass<'_>,
        layer: usize,
        resident: bool,
        reuse: Option<RoutingReuse>,
        routing: &mut RoutingStats,
        scratch: &mut Scratch,
    ) -> Result<(), EngineError> {
        self.route_one(pass, layer, resident, reuse, routing)?;
        if resident {
            let picks = Picks::all(pass.host.checkpoint.config().top_k);
            return Ok(self.compute_picks(pass, layer, &picks, 0)?);
        }
        let chosen = self.read_choice(pass, layer)?;
        let experts = pass.host.experts;
        let before = routing.newest()[layer].clone();
        routing.note(layer, &chosen);
        let missed = |e: &u16| !experts.is_in_fastest(id(layer, *e));
        routing.note_missed(layer, chosen.iter().copied().filter(missed));

        let ids: Vec<ExpertId> = chosen.iter().map(|&expert| id(layer, expert)).collect();
        let ways = experts.ways(&ids);
        let (mut hits, mut held) = (Picks::default(), Vec::new());
        let (mut coming, mut on_cpu) = (Vec::new(), Vec::new());
        // Those that are here are taken first, lest they make room for the others.
        for (j, _) in ways.iter().enumerate().filter(|(_, way)| way.is_none()) {
            let claim = experts.demand_on_device(ids[j])?;
            if claim.is_ready() {
                hits.push(j, claim.slot());
                held.push(claim);
            } else {
                coming.push(Missing { j, claim });
            }
        }
        // What is needed now is asked for before what may be.
        for (j, way) in ways.iter().enumerate() {
            match way {
                Some(Miss::Fetch) => {
                    let claim = experts.demand_on_device(ids[j])?;
                    coming.push(Missing { j, claim });
                }
                Some(Miss::Cpu) => {
                    let claim = experts.on_cpu(ids[j])?;
                    on_cpu.push(Missing { j, claim });
                }
                None => {}
            }
        }
        self.prefetch_guess(pass, layer);
        self.compute_picks(pass, layer, &hits, 0)?;
        if !on_cpu.is_empty() {
            self.compute_on_cpu(pass, &mut on_cpu, scratch)?;
            let again = |id: &ExpertId| before.contains(&id.expert);
            let ids = on_cpu.iter().map(|missing| missing.claim.id());
            experts.promote(ids.filter(again));
        }
        for Missing { j, mut claim } in coming {
            claim.wait()?;
            let mut pick = Picks::default();
            pick.push(j, claim.slot());
            self.compute_picks(pass, layer, &pick, held.len())?;
            held.push(claim);
        }
        let end = Arc::new(self.compute.record()?);
        for slot in held.iter().filter_map(Claim::slot) {
            self.slots.used(slot, &end);
        }
        Ok(())
    }

    /// Routes the token, and guesses the next layer's experts from this layer's state.
    fn route_one(
        &self,
        pass: &mut Pass<'_>,
        layer: usize,
        resident: bool,
        reuse: Option<RoutingReuse>,
        routing: &RoutingStats,
    ) -> Result<(), CudaError> {
        let c = pass.host.checkpoint.config();
        let (work, top_k) = (&*pass.work, c.top_k);
        let [now, before] = pass.kv.ids();
        let of = |layer: usize| (layer * top_k, top_k);
        let previous = |layer: usize| {
            let known = !routing.newest()[layer].is_empty();
            let (start, len) = of(layer);
            known.then(|| before.part(start, len))
        };
        let (start, len) = of(layer);
        let trunk = &self.trunk.layers[layer];
        let job = RouterJob {
            norm: trunk.expert_norm(),
            gate: trunk.gate(),
            normed: Some((work.normed.slice(), work.normed_amax())),
            ids: now.part(start, len),
            weights: pass.kv.weights().part(start, len),
            previous: previous(layer),
            clear: Some(work.h_amax()),
            layer,
        };
        let guess = pass.host.experts.prefetch_count() > 0 && !resident;
        let next = self.trunk.layers.get(layer + 1).filter(|_| guess);
        let guess = next.map(|trunk| RouterJob {
            norm: trunk.expert_norm(),
            gate: trunk.gate(),
            normed: None,
            ids: work.guess.slice(),
            weights: work.guess_weights.slice(),
            previous: previous(layer + 1),
            clear: None,
            layer: layer + 1,
        });
        let reuse = reuse.map_or_else(Reuse::default, |r| Reuse {
            p: r.p,
            seed: r.seed,
            position: pass.first as i32,
        });
        let (hidden, eps) = (work.hidden.slice(), c.rms_norm_eps as f32);
        self.ops.router(
            &self.compute,
            1,
            hidden,
            eps,
            top_k,
            [Some(job), guess],
            reuse,
        )
    }

    /// Waits for the router's choice.
    fn read_choice(&self, pass: &mut Pass<'_>, layer: usize) -> Result<Vec<u16>, CudaError> {
        let c = pass.host.checkpoint.config();
        let (top_k, s) = (c.top_k, &self.compute);
        let [now, _] = pass.kv.ids();
        let work = &mut *pass.work;
        let staging = &mut work.staging;
        // SAFETY: nobody touches the staging before the wait.
        unsafe {
            let part = now.part(layer * top_k, top_k);
            s.download(part, staging.ids.values_mut(0, top_k))?;
            let part = pass.kv.weights().part(layer * top_k, top_k);
            s.download(part, staging.weights.values_mut(0, top_k))?;
            if pass.host.experts.prefetch_count() > 0 {
                let part = work.guess.slice::<i32>().part(0, top_k);
                s.download(part, staging.guess.values_mut(0, top_k))?;
            }
            if pass.host.experts.may_use_cpu() {
                let part = work.normed.slice().part(0, c.hidden_size);
                s.download::<f32>(part, staging.normed.values_mut(0, c.hidden_size))?;
            }
        }
        if pass.host.experts.may_use_cpu() {
            pass.host.pool.rouse();
        }
        s.synchronize()?;
        Ok(numbers(staging.ids.values(0, top_k), c.n_experts))
    }

    /// Starts the fetches of the guessed experts.
    fn prefetch_guess(&self, pass: &Pass<'_>, layer: usize) {
        let c = pass.host.checkpoint.config();
        let wanted = pass.host.experts.prefetch_count().min(c.top_k);
        if wanted == 0 || layer + 1 == c.n_layers {
            return;
        }
        let guess = numbers(pass.work.staging.guess.values(0, wanted), c.n_experts);
        let ids: Vec<ExpertId> = guess.iter().map(|e| id(layer + 1, *e)).collect();
        pass.host.experts.prefetch(&ids);
    }

    /// Launches experts that are on the card; `done` of this token's were launched before.
    fn compute_picks(
        &self,
        pass: &Pass<'_>,
        layer: usize,
        picks: &Picks,
        done: usize,
    ) -> Result<(), CudaError> {
        if picks.is_empty() {
            return Ok(());
        }
        let c = pass.host.checkpoint.config();
        let (work, s, ops) = (&*pass.work, &self.compute, &*self.ops);
        let [now, _] = pass.kv.ids();
        let ids = now.part(layer * c.top_k, c.top_k);
        let weights = pass.kv.weights().part(layer * c.top_k, c.top_k);
        let hidden = work.hidden.slice();
        let Some(like) = self.slots.uniform().filter(|_| !self.exact) else {
            for (j, slot) in picks.in_slots() {
                let expert = self.slots.expert(slot);
                self.compute_any(pass, &expert, weights.part(j, 1), hidden)?;
            }
            return Ok(());
        };
        let places = work.places.slice().part(layer * c.n_experts, c.n_experts);
        let h = (work.gate.slice(), work.h_amax().part(done, picks.len()));
        let x = (work.normed.slice(), work.normed_amax());
        let experts = self.slots.experts();
        ops.expert_gate_up(s, &like, experts, picks, ids, places, x, h)?;
        let choice = (ids, weights);
        ops.expert_down(s, &like, experts, picks, choice, places, h, hidden)
    }

    /// One expert of any layout, in f32.
    fn compute_any(
        &self,
        pass: &Pass<'_>,
        expert: &DeviceExpert,
        weight: Slice<'_, f32>,
        hidden: Slice<'_, f32>,
    ) -> Result<(), CudaError> {
        let (work, s, ops) = (&*pass.work, &self.compute, &*self.ops);
        let one = Rows {
            t: 1,
            ..Rows::default()
        };
        let inner = expert.w1.n();
        let gate = work.gate.slice().part(0, inner);
        let up = work.up.slice().part(0, inner);
        ops.matvec_any(s, expert.w1, work.normed.slice(), gate, one)?;
        ops.matvec_any(s, expert.w3, work.normed.slice(), up, one)?;
        ops.silu_mul(s, gate, up, None)?;
        let rows = Rows {
            weights: Some(weight),
            add: true,
            ..one
        };
        ops.matvec_any(s, expert.w2, gate, hidden, rows)
    }

    /// Computes experts on the CPU while the card is at work, and adds their share there.
    fn compute_on_cpu(
        &self,
        pass: &mut Pass<'_>,
        missing: &mut [Missing],
        scratch: &mut Scratch,
    ) -> Result<(), EngineError> {
        let c = pass.host.checkpoint.config();
        let (width, inner) = (c.hidden_size, c.intermediate_size);
        let staging = &mut pass.work.staging;
        let (mut gate, mut up) = (vec![0.0; inner], vec![0.0; inner]);
        let mut down = vec![0.0; width];
        let sum = staging.from_cpu.values_mut::<f32>(0, width);
        sum.fill(0.0);
        for Missing { j, claim } in missing {
            let Place::Ram(weights) = claim.wait()? else {
                unreachable!("BUG: a claim on RAM is in RAM");
            };
            let x = staging.normed.values(0, width);
            expert_forward(
                pass.host.pool,
                scratch,
                pass.host.precision,
                &weights,
                x,
                (&mut gate, &mut up),
                &mut down,
            );
            let weight = staging.weights.values::<f32>(0, c.top_k)[*j];
            for (sum, value) in sum.iter_mut().zip(&down) {
                *sum += weight * value;
            }
        }
        let work = &*pass.work;
        let from_cpu = work.from_cpu.slice();
        // SAFETY: rewritten in a later layer, which comes after that layer's wait.
        unsafe {
            self.compute
                .upload::<f32>(work.staging.from_cpu.values(0, width), from_cpu)?;
        }
        let hidden = work.hidden.slice().part(0, width);
        Ok(self.ops.add_scaled(&self.compute, hidden, from_cpu, None)?)
    }

    /// Says where all experts are.
    pub(super) fn write_places(&self, pass: &mut Pass<'_>) -> Result<(), CudaError> {
        if pass.work.places_known {
            return Ok(());
        }
        let places: Vec<i32> = pass
            .host
            .experts
            .device_slots()
            .into_iter()
            .map(|slot| slot.map_or(-1, |slot| slot as i32))
            .collect();
        pass.work.places.write(0, &places)?;
        pass.work.places_known = true;
        Ok(())
    }

    /// Reads what all routers chose, for the statistics.
    pub(super) fn note_resident(
        &self,
        pass: &mut Pass<'_>,
        routing: &mut RoutingStats,
    ) -> Result<(), CudaError> {
        let c = pass.host.checkpoint.config();
        let all = c.n_layers * c.top_k;
        let [now, _] = pass.kv.ids();
        let staging = &mut pass.work.staging;
        // SAFETY: nobody touches the staging before the wait.
        unsafe {
            self.compute
                .download(now.part(0, all), staging.ids.values_mut(0, all))?;
        }
        self.compute.synchronize()?;
        let chosen = numbers(staging.ids.values(0, all), c.n_experts);
        for (layer, experts) in chosen.chunks_exact(c.top_k).enumerate() {
            routing.note(layer, experts);
            routing.note_missed(layer, std::iter::empty());
        }
        pass.host.experts.count_device_hits(all as u64);
        Ok(())
    }
}

/// Experts as the card numbers them; anything out of range, as a state of NaN gives, is the first.
fn numbers(ids: &[i32], n_experts: usize) -> Vec<u16> {
    ids.iter()
        .map(|&e| {
            u16::try_from(e)
                .ok()
                .filter(|e| usize::from(*e) < n_experts)
        })
        .map(Option::unwrap_or_default)
        .collect()
}

fn id(layer: usize, expert: u16) -> ExpertId {
    ExpertId {
        layer: layer as u16,
        expert,
    }
}
