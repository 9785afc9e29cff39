//! The plan of a session of a title: which range a ticket and an Open message allow, and which frames follow in which
//! order. Knows neither the bytes nor where they come from or go; the order is that of `usher/wire/v1/wire.proto`.

use std::{collections::VecDeque, ops::Range};

use usher_proto::{
    Code, ContentId, Fault,
    pb::v1::ByteRange,
    ticket::Ticket,
    tree::{GROUP, PAGE, PAGE_GROUPS},
    wire::MAX_WAITING,
};

/// Properties of the opened title.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TitleFacts {
    /// Size in bytes, at least 1.
    pub size: u64,
    /// Content id; `None` while the title is not hashed.
    pub content: Option<ContentId>,
}

/// The next step of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendStep {
    /// Send the values of all pages.
    Pages,
    /// Send the values of the groups of this page.
    Hashes(u64),
    /// Send these groups, all of one page.
    Groups(Range<u64>),
    /// Wait until the title is hashed, for [`SessionPlan::handle_hashed`].
    AwaitHashes,
    /// Wait until the client requests another range, for [`SessionPlan::handle_range`], or no more, for
    /// [`SessionPlan::handle_last_range`].
    AwaitRange,
    /// Send the content id; nothing follows.
    Finish(ContentId),
}

/// A session from its ticket to its last frame.
#[derive(Debug)]
pub struct SessionPlan {
    ticket: Ticket,
    state: PlanState,
}

#[derive(Debug)]
enum PlanState {
    Opening { wanted: Option<ByteRange>, more: bool },
    Serving(FramePlan),
    Done,
    Refused,
}

impl SessionPlan {
    /// The plan of a session with a valid ticket. `wanted` is the range of its Open message, and `more` whether further
    /// ranges may follow.
    pub fn new(ticket: Ticket, wanted: Option<ByteRange>, more: bool) -> Self {
        Self { ticket, state: PlanState::Opening { wanted, more } }
    }

    /// The ticket of the session.
    pub fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// The title is open. Returns the bytes that will be sent, in whole groups but for the last of the title.
    ///
    /// # Errors
    /// `CONTENT_CHANGED` when the ticket is for other bytes, `BAD_RANGE` for a range that is empty or outside the
    /// title, `TICKET_MISMATCH` for one that the ticket does not grant, `INTERNAL` when called twice.
    pub fn handle_opened(&mut self, facts: TitleFacts) -> Result<Range<u64>, Fault> {
        let PlanState::Opening { wanted, more } = self.state else {
            return Err(Fault::new(Code::Internal, "the session is open already"));
        };
        match range(&self.ticket, wanted, facts) {
            Ok(range) => {
                let plan = FramePlan::new(facts, &range, more);
                let range = plan.bytes();
                self.state = PlanState::Serving(plan);
                Ok(range)
            }
            Err(fault) => {
                self.state = PlanState::Refused;
                Err(fault)
            }
        }
    }

    /// The hashes for [`SendStep::AwaitHashes`] are available.
    ///
    /// # Errors
    /// `CONTENT_CHANGED` when the ticket is for other bytes.
    pub fn handle_hashed(&mut self, content: ContentId) -> Result<(), Fault> {
        check_content(&self.ticket, Some(content))?;
        if let PlanState::Serving(plan) = &mut self.state {
            plan.facts.content = Some(content);
        }
        Ok(())
    }

    /// The client requests another range, which is served after those before it.
    ///
    /// # Errors
    /// `BAD_REQUEST` when it may not, or too many wait; as [`SessionPlan::handle_opened`] for the range itself.
    pub fn handle_range(&mut self, wanted: ByteRange) -> Result<(), Fault> {
        let bad = |what: &str| Fault::new(Code::BadRequest, what.to_owned());
        let PlanState::Serving(plan) = &mut self.state else { return Err(bad("the session is over")) };
        if plan.moving {
            // Requested before the client knew of the move: it requests the range again elsewhere.
            return Ok(());
        }
        let Some(further) = plan.further.as_mut() else { return Err(bad("the Open did not say that more follows")) };
        if plan.facts.content.is_none() {
            return Err(bad("a title that is not hashed yet is served in one range"));
        }
        if further.len() >= MAX_WAITING {
            return Err(bad("more ranges wait than may"));
        }
        further.push_back(groups(&range(&self.ticket, Some(wanted), plan.facts)?));
        Ok(())
    }

    /// The client requests no more ranges.
    pub fn handle_last_range(&mut self) {
        if let PlanState::Serving(plan) = &mut self.state {
            plan.enough = true;
        }
    }

    /// The groups of the last step were not sent, and follow again.
    pub fn handle_unsent(&mut self, groups: &Range<u64>) {
        if let PlanState::Serving(plan) = &mut self.state {
            plan.rewind(groups.start);
        }
    }

    /// The session moves to another node after `lead` more groups of the current range, or sooner at the end of that
    /// range or of the `available` groups. Drops waiting ranges. Returns the byte before which it ends here, 0 when
    /// nothing more comes; `None` when the session stays, because the client has everything after the lead or before.
    pub fn handle_move(&mut self, lead: u64, available: u64) -> Option<u64> {
        let PlanState::Serving(plan) = &mut self.state else { return None };
        plan.handle_move(lead, available)
    }

    /// The next step, each once (but for those that wait), with at most `most` groups; `None` when the session is over,
    /// was refused, or is not open.
    pub fn poll_step(&mut self, most: u64) -> Option<SendStep> {
        let PlanState::Serving(plan) = &mut self.state else { return None };
        let step = plan.poll_step(most);
        if step.is_none() || matches!(step, Some(SendStep::Finish(_))) {
            self.state = PlanState::Done;
        }
        step
    }

    /// Whether all steps were returned.
    pub fn is_done(&self) -> bool {
        matches!(self.state, PlanState::Done)
    }
}

fn check_content(ticket: &Ticket, content: Option<ContentId>) -> Result<(), Fault> {
    match (ticket.content, content) {
        (Some(wanted), Some(have)) if wanted != have => Err(Fault::new(
            Code::ContentChanged,
            format!("`{}` is not the content that the ticket names; resolve again", ticket.title),
        )),
        _ => Ok(()),
    }
}

/// The bytes to serve, if the ticket grants them.
fn range(ticket: &Ticket, wanted: Option<ByteRange>, facts: TitleFacts) -> Result<Range<u64>, Fault> {
    check_content(ticket, facts.content)?;
    let size = facts.size;
    let outside = |what: &str| Fault::new(Code::BadRange, format!("{what} of a title of {size} bytes"));

    let granted = ticket.start..ticket.end.unwrap_or(size).min(size);
    if granted.is_empty() {
        return Err(outside("the ticket's range lies past the end"));
    }
    // Groups are sent whole, so a client that resumes at the edge of a group may request the widened range.
    let granted = widen(&granted, size);
    let range = match wanted {
        None => granted,
        Some(ByteRange { start, end }) => {
            let end = if end == 0 { size } else { end };
            if start >= end || start >= size {
                return Err(outside(&format!("bytes {start} to {end} are no range")));
            }
            let range = start..end.min(size);
            if range.start < granted.start || range.end > granted.end {
                return Err(Fault::new(
                    Code::TicketMismatch,
                    format!("bytes {start} to {end} are not within the ticket's range"),
                ));
            }
            range
        }
    };
    Ok(range)
}

/// The groups that cover these bytes.
fn groups(range: &Range<u64>) -> Range<u64> {
    range.start / GROUP..range.end.div_ceil(GROUP)
}

/// The range widened to whole groups within the title.
fn widen(range: &Range<u64>, size: u64) -> Range<u64> {
    let start = range.start / GROUP * GROUP;
    start..range.end.div_ceil(GROUP).saturating_mul(GROUP).min(size)
}

/// The frames of all ranges, in order.
#[derive(Debug)]
struct FramePlan {
    facts: TitleFacts,
    /// Groups of the current range.
    groups: Range<u64>,
    /// Waiting ranges, in groups; `None` for a session of one range.
    further: Option<VecDeque<Range<u64>>>,
    /// No further range follows.
    enough: bool,
    /// The session moves: nothing follows the current groups.
    moving: bool,
    phase: Phase,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Before the first step.
    Start,
    /// Hashed: the hashes of this page follow.
    Page(u64),
    /// This group follows. If `hashed`, the hashes of its page are sent.
    Group { next: u64, hashed: bool },
    /// Hashed, all groups sent: another range may follow.
    Between,
    /// Not hashed, all groups sent: the hashes follow.
    Wait,
    /// Hashed meanwhile: the hashes of this page follow.
    LatePage(u64),
    /// Finish follows.
    End,
    /// Nothing follows.
    Over,
}

impl FramePlan {
    fn new(facts: TitleFacts, range: &Range<u64>, more: bool) -> Self {
        let further = more.then(VecDeque::new);
        Self { facts, groups: groups(range), further, enough: false, moving: false, phase: Phase::Start }
    }

    fn rewind(&mut self, next: u64) {
        match self.phase {
            Phase::Group { hashed, .. } => self.phase = Phase::Group { next, hashed },
            // Only groups whose hashes were sent precede a page.
            Phase::Page(_) => self.phase = Phase::Group { next, hashed: true },
            _ => {}
        }
    }

    fn handle_move(&mut self, lead: u64, available: u64) -> Option<u64> {
        let from = match self.phase {
            Phase::Start => self.groups.start,
            Phase::Page(page) => self.groups.start.max(page * PAGE_GROUPS),
            Phase::Group { next, .. } => next,
            Phase::Between => self.groups.end,
            Phase::Wait | Phase::LatePage(_) | Phase::End | Phase::Over => return None,
        };
        let more = self.further.as_ref().is_some_and(|waiting| !(self.enough && waiting.is_empty()));
        if !more && self.groups.end - from <= lead {
            return None;
        }
        self.moving = true;
        self.further = None;
        let until = from.saturating_add(lead).min(available.max(from)).min(self.groups.end);
        // Groups without hashes are of no use to the client.
        if until == from || self.facts.content.is_none() {
            self.phase = Phase::Over;
            return Some(0);
        }
        self.groups.end = until;
        Some(self.bytes().end)
    }

    fn bytes(&self) -> Range<u64> {
        self.groups.start * GROUP..self.groups.end.saturating_mul(GROUP).min(self.facts.size)
    }

    /// The step after the last group of a hashed range; `None` to continue with the new phase.
    fn between(&mut self) -> Option<SendStep> {
        match self.further.as_mut().map(VecDeque::pop_front) {
            Some(Some(groups)) => {
                self.groups = groups;
                self.phase = if self.facts.size > GROUP {
                    Phase::Page(self.first_page())
                } else {
                    Phase::Group { next: self.groups.start, hashed: false }
                };
                None
            }
            Some(None) if !self.enough => Some(SendStep::AwaitRange),
            _ => {
                self.phase = Phase::End;
                None
            }
        }
    }

    fn first_page(&self) -> u64 {
        self.groups.start / PAGE_GROUPS
    }

    /// One past the last page.
    fn end_page(&self) -> u64 {
        self.groups.end.div_ceil(PAGE_GROUPS)
    }

    fn poll_step(&mut self, most: u64) -> Option<SendStep> {
        loop {
            match self.phase {
                Phase::Start if self.facts.content.is_some() && self.facts.size > GROUP => {
                    self.phase = Phase::Page(self.first_page());
                    if self.facts.size > PAGE {
                        return Some(SendStep::Pages);
                    }
                }
                // A title of one group is its own proof, and one that is not hashed has none yet.
                Phase::Start => {
                    self.phase = Phase::Group { next: self.groups.start, hashed: false };
                }
                Phase::Page(page) => {
                    let next = self.groups.start.max(page * PAGE_GROUPS);
                    self.phase = Phase::Group { next, hashed: true };
                    return Some(SendStep::Hashes(page));
                }
                Phase::Group { next, hashed } => {
                    if next >= self.groups.end && self.moving {
                        self.phase = Phase::Over;
                        continue;
                    }
                    if next >= self.groups.end {
                        self.phase = if self.facts.content.is_some() { Phase::Between } else { Phase::Wait };
                        continue;
                    }
                    let page = next / PAGE_GROUPS;
                    let end = (next + most.max(1)).min(self.groups.end).min((page + 1) * PAGE_GROUPS);
                    let page_follows = hashed && end.is_multiple_of(PAGE_GROUPS) && end < self.groups.end;
                    self.phase = if page_follows { Phase::Page(page + 1) } else { Phase::Group { next: end, hashed } };
                    return Some(SendStep::Groups(next..end));
                }
                Phase::Between => {
                    if let Some(step) = self.between() {
                        return Some(step);
                    }
                }
                Phase::Wait if self.facts.content.is_none() => return Some(SendStep::AwaitHashes),
                Phase::Wait if self.facts.size <= GROUP => self.phase = Phase::End,
                Phase::Wait => {
                    self.phase = Phase::LatePage(self.first_page());
                    if self.facts.size > PAGE {
                        return Some(SendStep::Pages);
                    }
                }
                Phase::LatePage(page) if page < self.end_page() => {
                    self.phase = Phase::LatePage(page + 1);
                    return Some(SendStep::Hashes(page));
                }
                Phase::LatePage(_) => self.phase = Phase::End,
                Phase::End => {
                    self.phase = Phase::Over;
                    return self.facts.content.map(SendStep::Finish);
                }
                Phase::Over => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests;
