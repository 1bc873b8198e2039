//! The experts of one token: hits on the GPU, misses fetched or computed on the CPU meanwhile.

use std::time::Instant;

use octet_kernels::Scratch;
use octet_kernels::cuda::{
    CudaError, DeviceExpert, PickedExperts, Picks, RouterJob, Routing, Rows, Slice,
};

use super::GpuModel;
use super::forward::Pass;
use super::graphs::Recipe;
use super::in_use::InUse;
use crate::backend::PassMeter;
use crate::backend::cpu::expert_forward;
use crate::checkpoint::ExpertId;
use crate::error::EngineError;
use crate::experts::{Claim, Miss, Place, RoutingStats};

/// What decoding takes of a session beside its cache.
pub(super) struct Conversing<'a> {
    pub routing: &'a mut RoutingStats,
    pub scratch: &'a mut Scratch,
    /// Whether experts of the token before may be kept.
    pub reuses: bool,
}

/// A token's choice that is not on the GPU yet.
struct Missing {
    /// Its number among the router's choices.
    j: usize,
    claim: Claim,
}

impl GpuModel {
    /// One token; waits for its logits, which are in the staging then.
    pub(super) fn decode(
        &self,
        pass: &mut Pass<'_>,
        token: Conversing<'_>,
        meter: &mut PassMeter<'_>,
    ) -> Result<(), EngineError> {
        let Conversing {
            routing,
            scratch,
            reuses,
        } = token;
        let experts = &pass.host.experts;
        let n_layers = pass.host.checkpoint.spec().n_layers;
        let alike = self.slots.uniform().is_some() && !self.exact;
        let resident = alike && experts.all_on_device();
        let recipe = Recipe {
            cache: pass.kv.addresses(),
            capacity: pass.kv.capacity(),
            reach: pass.reach,
            resident,
            guesses: !resident && experts.prefetch_count() > 0,
            cpu: !resident && experts.may_use_cpu(),
            reuses,
        };
        if pass.records {
            pass.work.graphs.turn_to(recipe);
        }
        if resident {
            (0..n_layers).try_for_each(|layer| meter.layer(layer))?;
            self.write_places(pass)?;
            self.replay(pass, 0, |pass| self.whole_token(pass, recipe))?;
            self.compute.synchronize()?;
            self.note_resident(pass, routing);
        } else {
            for layer in 0..n_layers {
                meter.layer(layer)?;
                self.replay(pass, layer, |pass| self.up_to_choice(pass, layer, recipe))?;
                self.decode_experts(pass, layer, routing, scratch)?;
            }
            self.replay(pass, n_layers, |pass| self.some_logits(pass, 0, 1))?;
            self.compute.synchronize()?;
        }
        experts.publish(routing);
        Ok(())
    }

    /// Launches all of a token: the kernels follow the routers' choices by the table of places.
    fn whole_token(&self, pass: &mut Pass<'_>, recipe: Recipe) -> Result<(), CudaError> {
        let c = pass.host.checkpoint.spec();
        let picks = Picks::all(c.top_k);
        self.upload_input(pass)?;
        for layer in 0..c.n_layers {
            self.attention(pass, layer)?;
            self.route_one(pass, layer, recipe)?;
            self.compute_picks(pass, layer, &picks, 0)?;
        }
        let newest = pass.kv.newest();
        let ids = pass.work.staging.ids.values_mut(0, newest.len());
        // SAFETY: nobody touches the staging before the wait.
        unsafe { self.compute.download(newest, ids)? };
        self.some_logits(pass, 0, 1)
    }

    /// Launches a layer up to the router's choice, which comes to the host.
    fn up_to_choice(
        &self,
        pass: &mut Pass<'_>,
        layer: usize,
        recipe: Recipe,
    ) -> Result<(), CudaError> {
        if layer == 0 {
            self.upload_input(pass)?;
        }
        self.attention(pass, layer)?;
        self.route_one(pass, layer, recipe)?;
        let (choice, to) = pass.work.choice(recipe.cpu);
        // SAFETY: nobody touches the staging before the wait.
        unsafe { self.compute.download(choice, to) }
    }

    /// `hidden += sum of weight * expert(norm(hidden))` for one token, once its choice is known.
    fn decode_experts(
        &self,
        pass: &mut Pass<'_>,
        layer: usize,
        routing: &mut RoutingStats,
        scratch: &mut Scratch,
    ) -> Result<(), EngineError> {
        let chosen = self.read_choice(pass)?;
        let experts = &pass.host.experts;
        let before = routing.newest()[layer].clone();
        routing.note(layer, &chosen);
        let missed = |e: &u16| !experts.is_in_fastest(id(layer, *e));
        routing.note_missed(layer, chosen.iter().copied().filter(missed));

        let ids: Vec<ExpertId> = chosen.iter().map(|&expert| id(layer, expert)).collect();
        let ways = experts.ways(&ids);
        let (mut hits, mut in_use) = (Picks::default(), InUse::new(self));
        let (mut coming, mut on_cpu) = (Vec::new(), Vec::new());
        // Those that are here are taken first, lest they make room for the others.
        for (j, _) in ways.iter().enumerate().filter(|(_, way)| way.is_none()) {
            let claim = experts.demand_on_device(ids[j])?;
            if claim.is_ready() {
                hits.push(j, Some(in_use.push(claim)));
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
        let waits = !on_cpu.is_empty() || !coming.is_empty();
        if waits && !hits.is_empty() {
            self.compute.flush()?;
        }
        if !on_cpu.is_empty() {
            self.compute_on_cpu(pass, &mut on_cpu, scratch)?;
            let again = |id: &ExpertId| before.contains(&id.expert);
            let ids = on_cpu.iter().map(|missing| missing.claim.id());
            experts.promote(ids.filter(again));
        }
        for Missing { j, mut claim } in coming {
            claim.wait()?;
            let (mut pick, done) = (Picks::default(), in_use.len());
            pick.push(j, Some(in_use.push(claim)));
            self.compute_picks(pass, layer, &pick, done)?;
        }
        Ok(in_use.release()?)
    }

    /// Routes the token, and guesses the next layer's experts from this layer's state.
    fn route_one(
        &self,
        pass: &mut Pass<'_>,
        layer: usize,
        recipe: Recipe,
    ) -> Result<(), CudaError> {
        let c = pass.host.checkpoint.spec();
        let (work, top_k) = (&*pass.work, c.top_k);
        let newest = |layer: usize| pass.kv.newest().part(layer * top_k, top_k);
        let previous = |layer: usize| recipe.reuses.then(|| newest(layer));
        let trunk = &self.trunk.layers[layer];
        let job = RouterJob {
            norm: trunk.expert_norm(),
            gate: trunk.gate(),
            normed: Some((work.normed(), work.normed_amax())),
            ids: work.token_ids(),
            weights: work.token_weights(),
            previous: previous(layer),
            newest: Some(newest(layer)),
            clear: Some(work.h_amax()),
            layer,
        };
        let next = self.trunk.layers.get(layer + 1);
        let next = next.filter(|_| recipe.guesses);
        let (ids, weights) = work.guess();
        let guess = next.map(|trunk| RouterJob {
            norm: trunk.expert_norm(),
            gate: trunk.gate(),
            normed: None,
            ids,
            weights,
            previous: previous(layer + 1),
            newest: None,
            clear: None,
            layer: layer + 1,
        });
        let (hidden, eps) = (work.hidden(), c.rms_norm_eps as f32);
        self.ops.router(
            &self.compute,
            Routing {
                t: 1,
                hidden,
                eps,
                top_k,
                jobs: [Some(job), guess],
                moment: Some(work.moment()),
            },
        )
    }

    /// Waits for the router's choice.
    fn read_choice(&self, pass: &Pass<'_>) -> Result<Vec<u16>, CudaError> {
        let c = pass.host.checkpoint.spec();
        if pass.host.experts.may_use_cpu() {
            pass.host.pool.rouse();
        }
        self.compute.synchronize()?;
        let ids = pass.work.staging.choice.ids(c.top_k);
        Ok(numbers(ids, c.n_experts))
    }

    /// Starts the fetches of the guessed experts.
    fn prefetch_guess(&self, pass: &Pass<'_>, layer: usize) {
        let c = pass.host.checkpoint.spec();
        let wanted = pass.host.experts.prefetch_count().min(c.top_k);
        if wanted == 0 || layer + 1 == c.n_layers {
            return;
        }
        let guess = numbers(pass.work.staging.choice.guess(wanted), c.n_experts);
        let ids: Vec<ExpertId> = guess.iter().map(|e| id(layer + 1, *e)).collect();
        pass.host.experts.prefetch(&ids);
    }

    /// Launches experts that are on the GPU; `done` of this token's were launched before.
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
        let c = pass.host.checkpoint.spec();
        let (work, s, ops) = (&*pass.work, &self.compute, &*self.ops);
        let (ids, weights, hidden) = (work.token_ids(), work.token_weights(), work.hidden());
        let Some(like) = self.slots.uniform().filter(|_| !self.exact) else {
            for (j, slot) in picks.in_slots() {
                let expert = self.slots.expert(slot);
                self.compute_any(pass, &expert, weights.part(j, 1), hidden)?;
            }
            return Ok(());
        };
        let places = work.places.slice().part(layer * c.n_experts, c.n_experts);
        let h = (work.gate.slice(), work.h_amax().part(done, picks.len()));
        let x = (work.normed(), work.normed_amax());
        let experts = self.slots.experts();
        ops.expert_gate_up(
            s,
            PickedExperts {
                like,
                table: experts,
                picks,
                ids,
                places,
            },
            x,
            h,
        )?;
        let choice = (ids, weights);
        ops.expert_down(
            s,
            PickedExperts {
                like,
                table: experts,
                picks,
                ids: choice.0,
                places,
            },
            choice.1,
            h,
            hidden,
        )
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
        ops.matvec_any(s, expert.w1, work.normed(), gate, one)?;
        ops.matvec_any(s, expert.w3, work.normed(), up, one)?;
        ops.silu_mul(s, gate, up, None)?;
        let rows = Rows {
            weights: Some(weight),
            add: true,
            ..one
        };
        ops.matvec_any(s, expert.w2, gate, hidden, rows)
    }

    /// Computes experts on the CPU while the GPU is at work, and adds their share there.
    fn compute_on_cpu(
        &self,
        pass: &mut Pass<'_>,
        missing: &mut [Missing],
        scratch: &mut Scratch,
    ) -> Result<(), EngineError> {
        let c = pass.host.checkpoint.spec();
        let (width, inner) = (c.hidden_size, c.intermediate_size);
        let staging = &mut pass.work.staging;
        let choice = &staging.choice;
        let (mut gate, mut up) = (vec![0.0; inner], vec![0.0; inner]);
        let mut down = vec![0.0; width];
        let sum = staging.from_cpu.values_mut::<f32>(0, width);
        sum.fill(0.0);
        for Missing { j, claim } in missing {
            let claim_id = claim.id();
            let Place::Ram(weights) = claim.wait()? else {
                unreachable!("BUG: a claim on RAM is in RAM");
            };
            let x = choice.normed(width);
            let clock = Instant::now();
            expert_forward(
                &pass.host.pool,
                scratch,
                pass.host.precision,
                &weights,
                x,
                (&mut gate, &mut up),
                &mut down,
            );
            let seconds = clock.elapsed().as_secs_f64();
            pass.host.experts.note_cpu(claim_id, seconds);
            let weight = choice.weights(c.top_k)[*j];
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
        let hidden = work.hidden().part(0, width);
        Ok(self.ops.add_scaled(&self.compute, hidden, from_cpu, None)?)
    }

    /// Says where all experts are.
    fn write_places(&self, pass: &mut Pass<'_>) -> Result<(), CudaError> {
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
    fn note_resident(&self, pass: &Pass<'_>, routing: &mut RoutingStats) {
        let c = pass.host.checkpoint.spec();
        let all = c.n_layers * c.top_k;
        let chosen = numbers(pass.work.staging.ids.values(0, all), c.n_experts);
        for (layer, experts) in chosen.chunks_exact(c.top_k).enumerate() {
            routing.note(layer, experts);
            routing.note_missed(layer, std::iter::empty());
        }
        pass.host.experts.count_device_hits(all as u64);
    }
}

/// Experts as the GPU numbers them; anything out of range, as a state of NaN gives, is the first.
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
