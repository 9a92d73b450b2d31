//! PURE. What applying one entry gave.

use crate::batch::ProposerId;
use crate::command::{Answers, Effect};

/// What one batch did.
#[derive(Clone, Debug)]
pub struct Applied {
    /// One response per command.
    pub answers: Answers,
    /// What follows, in order.
    pub effects: Vec<Effect>,
    /// How many of them there are after each command: tells whose an effect is. Empty where nothing was
    /// applied.
    pub effects_after: Vec<usize>,
    /// Whose batch it was.
    pub proposer: ProposerId,
    /// Its place in that stream.
    pub sequence: u64,
}
