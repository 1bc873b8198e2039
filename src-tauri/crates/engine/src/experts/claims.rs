//! Claims on the experts of one layer, a few ahead of the one that is computed.

use std::collections::VecDeque;

use super::{Claim, TierError};

/// Experts of one layer, claimed in order: some are fetched while one is computed.
#[derive(Default)]
pub struct ClaimsAhead {
    claims: VecDeque<Claim>,
    /// How many experts there are.
    total: usize,
    /// How many to hold at a time.
    window: usize,
    /// How many were claimed so far.
    claimed: usize,
}

impl ClaimsAhead {
    /// Turns to `total` experts, of which up to `window` are held at a time.
    pub fn begin(&mut self, total: usize, window: usize) {
        self.claims.clear();
        (self.total, self.window, self.claimed) = (total, window, 0);
    }

    /// Claims the next experts by `claim`, which is given their numbers, as far as the window and
    /// the tiers have room.
    ///
    /// # Errors
    /// That of `claim`; not [`TierError::NoSlot`] while a claim is held, since there is something
    /// to go on with.
    pub fn fill(
        &mut self,
        mut claim: impl FnMut(usize) -> Result<Claim, TierError>,
    ) -> Result<(), TierError> {
        while self.claims.len() < self.window && self.claimed < self.total {
            match claim(self.claimed) {
                Ok(claim) => self.claims.push_back(claim),
                Err(TierError::NoSlot { .. }) if !self.claims.is_empty() => {
                    break;
                }
                Err(error) => return Err(error),
            }
            self.claimed += 1;
        }
        Ok(())
    }

    /// How many experts were claimed so far.
    pub fn claimed(&self) -> usize {
        self.claimed
    }

    /// Takes the claim on the next expert to compute; `None` after the last one.
    pub fn pop(&mut self) -> Option<Claim> {
        self.claims.pop_front()
    }
}
