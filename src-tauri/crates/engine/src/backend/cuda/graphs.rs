//! The launches of a decoded token, recorded once and replayed for the ones after it: a launch costs
//! the engine's thread microseconds, and a token takes some hundreds.

use octet_kernels::cuda::{CudaError, Graph};

use super::GpuModel;
use super::forward::Pass;

/// Tokens that one recording serves, at least: as long as 16 more splits of the cache suffice.
const REACH: usize = 4096;

/// How a token is computed, as far as launches depend on it: with the same recipe they are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Recipe {
    /// Where keys and values lie, and the newest token's experts.
    pub cache: [u64; 2],
    /// Positions that the cache has room for.
    pub capacity: usize,
    /// Up to which position attention reaches.
    pub reach: usize,
    /// All experts are in VRAM.
    pub resident: bool,
    /// The next layer's experts are guessed.
    pub guesses: bool,
    /// Experts may be computed on the CPU.
    pub cpu: bool,
    /// Experts of the token before may be kept.
    pub reuses: bool,
}

/// How far recorded attention of a token at `position` reaches, in a cache of `capacity` positions.
pub(super) fn reach(position: usize, capacity: usize) -> usize {
    (position + 1).next_multiple_of(REACH).min(capacity)
}

/// The recordings of one recipe, in the order of a token.
#[derive(Default)]
pub(super) struct Graphs {
    recipe: Option<Recipe>,
    /// Parts that were launched one by one before: a recording must not be what loads a kernel, and
    /// does not pay for one token.
    launched: usize,
    parts: Vec<Graph>,
    /// The driver cannot, or has no memory for it: never tried again.
    given_up: bool,
}

impl Graphs {
    /// Makes ready for tokens of `recipe`.
    pub(super) fn turn_to(&mut self, recipe: Recipe) {
        if self.recipe != Some(recipe) {
            self.parts.clear();
            self.launched = 0;
            self.recipe = Some(recipe);
        }
    }

    fn give_up(&mut self) {
        self.parts.clear();
        self.given_up = true;
    }
}

impl GpuModel {
    /// Puts a part of a token on the stream, the `part`-th of its recipe: `launches`, or what was
    /// recorded of them for a token before.
    pub(super) fn replay(
        &self,
        pass: &mut Pass<'_>,
        part: usize,
        launches: impl Fn(&mut Pass<'_>) -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        if !pass.records || pass.work.graphs.given_up {
            return launches(pass);
        }
        if part == pass.work.graphs.launched {
            launches(pass)?;
            pass.work.graphs.launched += 1;
            return Ok(());
        }
        if part == pass.work.graphs.parts.len() {
            match Graph::record(&self.compute, || launches(pass)) {
                Ok(graph) => pass.work.graphs.parts.push(graph),
                Err(_) => {
                    pass.work.graphs.give_up();
                    return launches(pass);
                }
            }
        }
        let graph = &pass.work.graphs.parts[part];
        // SAFETY: the recipe is the one of the recording, so the cache is where it was; all other
        // memory and the kernels live as long as this model. Staging is left alone as after
        // `launches`.
        unsafe { graph.launch(&self.compute) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_serves_thousands_of_positions_and_none_past_the_cache() {
        assert_eq!([0, 4095].map(|p| reach(p, 32_768)), [4096; 2]);
        assert_eq!([4096, 8191].map(|p| reach(p, 32_768)), [8192; 2]);
        assert_eq!([0, 4096, 5000].map(|p| reach(p, 5001)), [4096, 5001, 5001]);
        assert_eq!([0, 63].map(|p| reach(p, 64)), [64; 2]);
    }
}
