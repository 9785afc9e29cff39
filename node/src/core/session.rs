//! One session: what a ticket and an Open message allow of a title, and which frames follow in which order.
//! Knows neither the bytes nor where they come from or go; the order is that of `usher/wire/v1/wire.proto`.

use std::{collections::VecDeque, ops::Range};

use usher_proto::{
    Code, ContentId, Fault,
    pb::v1::ByteRange,
    ticket::Ticket,
    tree::{self, GROUP, PAGE, PAGE_GROUPS},
    wire::MAX_WAITING,
};

/// What the session needs to know of the opened title.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Bytes, at least 1.
    pub size: u64,
    /// Its content; `None` while it is not hashed.
    pub content: Option<ContentId>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send the values of all pages.
    Pages,
    /// Send the values of this page's groups.
    Hashes(u64),
    /// Send these groups, all of one page.
    Groups(Range<u64>),
    /// Wait until the title is hashed, and tell it with [`Session::hashed`].
    AwaitHashes,
    /// Wait until the client asks for another range, for [`Session::further`], or has no more, for [`Session::enough`].
    AwaitRange,
    /// Send the content id; nothing follows.
    Finish(ContentId),
}

/// A session from its ticket to its last frame.
#[derive(Debug)]
pub struct Session {
    ticket: Ticket,
    state: State,
}

#[derive(Debug)]
enum State {
    Opening { wanted: Option<ByteRange>, more: bool },
    Serving(Plan),
    Done,
    Refused,
}

impl Session {
    /// A session that was asked for with a ticket that is in order. `wanted` is the range of its Open message, and `more`
    /// whether further ranges may follow.
    pub fn new(ticket: Ticket, wanted: Option<ByteRange>, more: bool) -> Self {
        Self { ticket, state: State::Opening { wanted, more } }
    }

    /// The right it stands on.
    pub fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// The title is open. Returns the bytes that will be sent, in whole groups but for the title's last.
    ///
    /// # Errors
    /// `CONTENT_CHANGED` when the ticket is for other bytes, `BAD_RANGE` for a range that is empty or outside the
    /// title, `TICKET_MISMATCH` for one that the ticket does not grant, `INTERNAL` when called twice.
    pub fn opened(&mut self, facts: Facts) -> Result<Range<u64>, Fault> {
        let State::Opening { wanted, more } = self.state else {
            return Err(Fault::new(Code::Internal, "the session is open already"));
        };
        match range(&self.ticket, wanted, facts) {
            Ok(range) => {
                let plan = Plan::new(facts, &range, more);
                let range = plan.bytes();
                self.state = State::Serving(plan);
                Ok(range)
            }
            Err(fault) => {
                self.state = State::Refused;
                Err(fault)
            }
        }
    }

    /// The hashes that [`Step::AwaitHashes`] waits for are there.
    ///
    /// # Errors
    /// `CONTENT_CHANGED` when the ticket is for other bytes.
    pub fn hashed(&mut self, content: ContentId) -> Result<(), Fault> {
        check_content(&self.ticket, Some(content))?;
        if let State::Serving(plan) = &mut self.state {
            plan.facts.content = Some(content);
        }
        Ok(())
    }

    /// The client asks for another range: it is served when all before it are.
    ///
    /// # Errors
    /// `BAD_REQUEST` when it may not, or too many wait; as [`Session::opened`] for the range itself.
    pub fn further(&mut self, wanted: ByteRange) -> Result<(), Fault> {
        let bad = |what: &str| Fault::new(Code::BadRequest, what.to_owned());
        let State::Serving(plan) = &mut self.state else { return Err(bad("the session is over")) };
        if plan.leaves {
            // Asked for before the client heard of it: it asks again elsewhere.
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

    /// The client asks for no more ranges.
    pub fn enough(&mut self) {
        if let State::Serving(plan) = &mut self.state {
            plan.enough = true;
        }
    }

    /// The groups of the last step were not sent: they come again.
    pub fn again(&mut self, groups: &Range<u64>) {
        if let State::Serving(plan) = &mut self.state {
            plan.again(groups.start);
        }
    }

    /// The session is to go on elsewhere: after `lead` more groups of the range that is being served, or sooner where that
    /// ends, or what is `here` of the title, in groups, does. Returns the byte before which it ends here, 0 when nothing
    /// more comes; ranges that wait are not served any more. `None` when the client has all that it wants after the lead,
    /// or before it: the session stays.
    pub fn leave(&mut self, lead: u64, here: u64) -> Option<u64> {
        let State::Serving(plan) = &mut self.state else { return None };
        plan.leave(lead, here)
    }

    /// The next step, each once (but for those that wait), of at most so many groups; `None` when the session is over,
    /// was refused, or is not open.
    pub fn next_step(&mut self, most: u64) -> Option<Step> {
        let State::Serving(plan) = &mut self.state else { return None };
        let step = plan.next_step(most);
        if step.is_none() || matches!(step, Some(Step::Finish(_))) {
            self.state = State::Done;
        }
        step
    }

    /// Whether everything was handed out.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
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
fn range(ticket: &Ticket, wanted: Option<ByteRange>, facts: Facts) -> Result<Range<u64>, Fault> {
    check_content(ticket, facts.content)?;
    let size = facts.size;
    let outside = |what: &str| Fault::new(Code::BadRange, format!("{what} of a title of {size} bytes"));

    let granted = ticket.start..ticket.end.unwrap_or(size).min(size);
    if granted.is_empty() {
        return Err(outside("the ticket's range lies past the end"));
    }
    // Groups are sent whole, so a client that goes on at a group's edge may ask for what widening gave it.
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

/// The range grown to whole groups within the title.
fn widen(range: &Range<u64>, size: u64) -> Range<u64> {
    let start = range.start / GROUP * GROUP;
    start..range.end.div_ceil(GROUP).saturating_mul(GROUP).min(size)
}

/// The frames of ranges, handed out one after the other.
#[derive(Debug)]
struct Plan {
    facts: Facts,
    /// Of the range that is being served.
    groups: Range<u64>,
    /// Ranges that wait, in groups; `None` when there is but one.
    further: Option<VecDeque<Range<u64>>>,
    /// No more of them will come.
    enough: bool,
    /// The session goes on elsewhere: nothing follows these groups.
    leaves: bool,
    stage: Stage,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Before anything.
    Start,
    /// Hashed: the hashes of the page come next.
    Page(u64),
    /// The group comes next. Of a hashed title, its page's hashes are sent.
    Group { next: u64, hashed: bool },
    /// Hashed, all groups sent: another range may follow.
    Between,
    /// Not hashed, all groups sent: the hashes follow.
    Wait,
    /// Not hashed at first: the hashes of the page come next.
    LatePage(u64),
    /// Only the end is left.
    End,
    /// Nothing is left.
    Over,
}

impl Plan {
    fn new(facts: Facts, range: &Range<u64>, more: bool) -> Self {
        let further = more.then(VecDeque::new);
        Self { facts, groups: groups(range), further, enough: false, leaves: false, stage: Stage::Start }
    }

    fn again(&mut self, next: u64) {
        match self.stage {
            Stage::Group { hashed, .. } => self.stage = Stage::Group { next, hashed },
            // Only groups whose hashes were sent precede a page.
            Stage::Page(_) => self.stage = Stage::Group { next, hashed: true },
            _ => {}
        }
    }

    fn leave(&mut self, lead: u64, here: u64) -> Option<u64> {
        let from = match self.stage {
            Stage::Start => self.groups.start,
            Stage::Page(page) => self.groups.start.max(page * PAGE_GROUPS),
            Stage::Group { next, .. } => next,
            Stage::Between => self.groups.end,
            Stage::Wait | Stage::LatePage(_) | Stage::End | Stage::Over => return None,
        };
        let more = self.further.as_ref().is_some_and(|waiting| !(self.enough && waiting.is_empty()));
        if !more && self.groups.end - from <= lead {
            return None;
        }
        self.leaves = true;
        self.further = None;
        let until = from.saturating_add(lead).min(here.max(from)).min(self.groups.end);
        // Without its hashes no group is of use to the client.
        if until == from || self.facts.content.is_none() {
            self.stage = Stage::Over;
            return Some(0);
        }
        self.groups.end = until;
        Some(self.bytes().end)
    }

    fn bytes(&self) -> Range<u64> {
        self.groups.start * GROUP..self.groups.end.saturating_mul(GROUP).min(self.facts.size)
    }

    /// What follows the last group of a hashed range; `None` to go on with the stage that is set.
    fn between(&mut self) -> Option<Step> {
        match self.further.as_mut().map(VecDeque::pop_front) {
            Some(Some(groups)) => {
                self.groups = groups;
                self.stage = if self.facts.size > GROUP {
                    Stage::Page(self.first_page())
                } else {
                    Stage::Group { next: self.groups.start, hashed: false }
                };
                None
            }
            Some(None) if !self.enough => Some(Step::AwaitRange),
            _ => {
                self.stage = Stage::End;
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

    fn next_step(&mut self, most: u64) -> Option<Step> {
        loop {
            match self.stage {
                Stage::Start if self.facts.content.is_some() && self.facts.size > GROUP => {
                    self.stage = Stage::Page(self.first_page());
                    if self.facts.size > PAGE {
                        return Some(Step::Pages);
                    }
                }
                // A title of one group is its own proof, and one that is not hashed has none yet.
                Stage::Start => {
                    self.stage = Stage::Group { next: self.groups.start, hashed: false };
                }
                Stage::Page(page) => {
                    let next = self.groups.start.max(page * PAGE_GROUPS);
                    self.stage = Stage::Group { next, hashed: true };
                    return Some(Step::Hashes(page));
                }
                Stage::Group { next, hashed } => {
                    if next >= self.groups.end && self.leaves {
                        self.stage = Stage::Over;
                        continue;
                    }
                    if next >= self.groups.end {
                        self.stage = if self.facts.content.is_some() { Stage::Between } else { Stage::Wait };
                        continue;
                    }
                    let page = next / PAGE_GROUPS;
                    let end = (next + most.max(1)).min(self.groups.end).min((page + 1) * PAGE_GROUPS);
                    let page_follows = hashed && end.is_multiple_of(PAGE_GROUPS) && end < self.groups.end;
                    self.stage = if page_follows { Stage::Page(page + 1) } else { Stage::Group { next: end, hashed } };
                    return Some(Step::Groups(next..end));
                }
                Stage::Between => {
                    if let Some(step) = self.between() {
                        return Some(step);
                    }
                }
                Stage::Wait if self.facts.content.is_none() => return Some(Step::AwaitHashes),
                Stage::Wait if self.facts.size <= GROUP => self.stage = Stage::End,
                Stage::Wait => {
                    self.stage = Stage::LatePage(self.first_page());
                    if self.facts.size > PAGE {
                        return Some(Step::Pages);
                    }
                }
                Stage::LatePage(page) if page < self.end_page() => {
                    self.stage = Stage::LatePage(page + 1);
                    return Some(Step::Hashes(page));
                }
                Stage::LatePage(_) => self.stage = Stage::End,
                Stage::End => {
                    self.stage = Stage::Over;
                    return self.facts.content.map(Step::Finish);
                }
                Stage::Over => return None,
            }
        }
    }
}

/// Bytes of these groups in a title of `size` bytes.
pub fn groups_len(size: u64, groups: &Range<u64>) -> u64 {
    groups.clone().map(|group| tree::group_len(size, group)).sum()
}

#[cfg(test)]
mod tests;
