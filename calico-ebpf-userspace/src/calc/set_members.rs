//! Members of a set; what has not changed from one version of it to the next is the same memory in both.
//!
//! A tree over the digits of a net: family, address, length. At most [`LEAF`] members are a leaf, more are a branch at the
//! first digit in which they differ. So the shape follows from the members alone, whatever came before, two versions are
//! compared digit by digit, and what is the same memory is not looked at. What came into a set of 100,000 and what left it
//! is found by one walk from the root to the leaf where it is.
//!
//! **Invariant:** equal members have equal shape.

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

/// Members that a leaf has at most. It is copied when one of them changes.
const LEAF: usize = 64;
/// Values of a digit.
const DIGITS: u8 = 16;

/// Members of a set: addresses as /32 and /128, and prefixes, masked. To copy them costs nothing.
#[derive(Clone, Default)]
pub struct SetMembers {
    root: Option<Node>,
}

/// What came into a set and what left it, each ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberChanges {
    pub came: Vec<IpNet>,
    pub gone: Vec<IpNet>,
}

/// Some members; never none.
#[derive(Clone)]
enum Node {
    /// Ascending.
    Leaf(Arc<[IpNet]>),
    Branch(Arc<Branch>),
}

/// More members than a leaf has.
#[derive(Clone)]
struct Branch {
    /// The first digit in which they differ.
    digit: u8,
    len: usize,
    /// One that is or was among them: all have the digits before `digit` in common with it.
    sample: IpNet,
    /// By digit.
    parts: [Option<Node>; DIGITS as usize],
}

impl SetMembers {
    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.root.as_ref().map_or(0, Node::len)
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// Returns whether both are the same memory; then they are equal.
    pub fn is(&self, other: &Self) -> bool {
        match (&self.root, &other.root) {
            (Some(one), Some(other)) => one.is(other),
            (None, None) => true,
            _ => false,
        }
    }

    /// Returns whether `net` is a member, as it is: not by a prefix around it.
    pub fn contains(&self, net: &IpNet) -> bool {
        let mut node = self.root.as_ref();
        loop {
            match node {
                None => return false,
                Some(Node::Leaf(members)) => return members.binary_search(net).is_ok(),
                Some(Node::Branch(branch)) => node = branch.parts[place(net, branch.digit)].as_ref(),
            }
        }
    }

    /// Adds a member. Returns whether it was none before.
    pub fn insert(&mut self, net: IpNet) -> bool {
        if self.contains(&net) {
            return false;
        }
        match &mut self.root {
            Some(root) => root.insert(net),
            None => self.root = Some(Node::Leaf([net].into())),
        }
        true
    }

    /// Takes a member out. Returns whether it was one.
    pub fn remove(&mut self, net: &IpNet) -> bool {
        if !self.contains(net) {
            return false;
        }
        remove(&mut self.root, net);
        true
    }

    /// Visits the members, ascending.
    pub fn iter(&self) -> Iter<'_> {
        let mut iter = Iter::default();
        iter.enter(self.root.as_ref());
        iter
    }

    /// Returns what has changed since `before`. Costs what has changed, when one was made from the other.
    pub fn changes_since(&self, before: &Self) -> MemberChanges {
        let mut changes = MemberChanges::default();
        compare(before.root.as_ref(), self.root.as_ref(), &mut changes);
        changes
    }
}

impl Node {
    /// Makes a node of ascending members, one or more.
    fn build(members: &[IpNet]) -> Self {
        let (Some(first), Some(last)) = (members.first(), members.last()) else {
            return Self::Leaf([].into());
        };
        let digit = match first_difference(first, last) {
            Some(digit) if members.len() > LEAF => digit,
            _ => return Self::Leaf(members.into()),
        };
        let mut parts = [const { None }; DIGITS as usize];
        for part in members.chunk_by(|one, other| place(one, digit) == place(other, digit)) {
            parts[place(&part[0], digit)] = Some(Self::build(part));
        }
        Self::Branch(Arc::new(Branch {
            digit,
            len: members.len(),
            sample: *first,
            parts,
        }))
    }

    fn len(&self) -> usize {
        match self {
            Self::Leaf(members) => members.len(),
            Self::Branch(branch) => branch.len,
        }
    }

    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Leaf(one), Self::Leaf(other)) => Arc::ptr_eq(one, other),
            (Self::Branch(one), Self::Branch(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    fn iter(&self) -> Iter<'_> {
        let mut iter = Iter::default();
        iter.enter(Some(self));
        iter
    }

    /// Adds what is no member yet.
    fn insert(&mut self, net: IpNet) {
        match self {
            Self::Leaf(members) => {
                let at = members.partition_point(|member| *member < net);
                let (before, after) = members.split_at(at);
                let now = [before, &[net], after].concat();
                *self = Self::build(&now);
            }
            Self::Branch(branch) => {
                let (sample, len) = (branch.sample, branch.len);
                let apart = first_difference(&sample, &net).filter(|digit| *digit < branch.digit);
                if let Some(digit) = apart {
                    let mut parts = [const { None }; DIGITS as usize];
                    parts[place(&sample, digit)] = Some(self.clone());
                    parts[place(&net, digit)] = Some(Self::Leaf([net].into()));
                    *self = Self::Branch(Arc::new(Branch {
                        digit,
                        len: len + 1,
                        sample,
                        parts,
                    }));
                    return;
                }
                let branch = Arc::make_mut(branch);
                branch.len += 1;
                match &mut branch.parts[place(&net, branch.digit)] {
                    Some(part) => part.insert(net),
                    none => *none = Some(Self::Leaf([net].into())),
                }
            }
        }
    }

    /// Returns the members whose `digit` has this value, as a node. None of the digits before may differ.
    fn part(&self, digit: u8, value: usize) -> Option<&Self> {
        match self {
            Self::Branch(branch) if branch.digit == digit => branch.parts[value].as_ref(),
            Self::Branch(branch) => (place(&branch.sample, digit) == value).then_some(self),
            Self::Leaf(_) => None,
        }
    }
}

/// Takes out what is a member.
fn remove(node: &mut Option<Node>, net: &IpNet) {
    match node {
        None => {}
        Some(Node::Leaf(members)) => {
            let left: Arc<[IpNet]> = members.iter().filter(|member| *member != net).copied().collect();
            *node = (!left.is_empty()).then_some(Node::Leaf(left));
        }
        Some(Node::Branch(branch)) => {
            let branch = Arc::make_mut(branch);
            branch.len -= 1;
            remove(&mut branch.parts[place(net, branch.digit)], net);
            if branch.len <= LEAF {
                let left: Vec<IpNet> = branch
                    .parts
                    .iter()
                    .flatten()
                    .flat_map(Node::iter)
                    .copied()
                    .collect();
                *node = Some(Node::Leaf(left.into()));
            } else if branch.parts.iter().flatten().count() == 1 {
                *node = branch.parts.iter_mut().find_map(Option::take);
            }
        }
    }
}

/// Adds what came and what is gone between two nodes at the same place.
fn compare(before: Option<&Node>, now: Option<&Node>, changes: &mut MemberChanges) {
    match (before, now) {
        (None, None) => {}
        (Some(before), None) => changes.gone.extend(before.iter()),
        (None, Some(now)) => changes.came.extend(now.iter()),
        (Some(before), Some(now)) if before.is(now) => {}
        (Some(before @ Node::Branch(one)), Some(now @ Node::Branch(other))) => {
            let apart = first_difference(&one.sample, &other.sample).unwrap_or(u8::MAX);
            let digit = one.digit.min(other.digit).min(apart);
            for value in 0..DIGITS.into() {
                let parts = (before.part(digit, value), now.part(digit, value));
                // Most are: not even a call for these.
                if !matches!(parts, (Some(before), Some(now)) if before.is(now)) {
                    compare(parts.0, parts.1, changes);
                }
            }
        }
        // A leaf is short, and what a branch has more than that has changed.
        (Some(before), Some(now)) => merge(before.iter(), now.iter(), changes),
    }
}

fn merge(before: Iter<'_>, now: Iter<'_>, changes: &mut MemberChanges) {
    let (mut before, mut now) = (before.copied().peekable(), now.copied().peekable());
    loop {
        match (before.peek(), now.peek()) {
            (None, None) => return,
            (Some(one), Some(other)) if one == other => {
                before.next();
                now.next();
            }
            (Some(gone), other) if other.is_none_or(|other| gone < other) => {
                changes.gone.extend(before.next());
            }
            _ => changes.came.extend(now.next()),
        }
    }
}

/// Returns the value of a digit of a net: of its family, its address from the highest bits on, its length.
fn place(net: &IpNet, digit: u8) -> usize {
    let value = match net {
        IpNet::V4(net) => match digit {
            0 => 0,
            1..=8 => net.addr().to_bits() >> (32 - 4 * u32::from(digit)),
            _ => u32::from(net.prefix_len()) >> (4 * u32::from(10_u8.saturating_sub(digit))),
        },
        IpNet::V6(net) => match digit {
            0 => 1,
            #[expect(clippy::cast_possible_truncation, reason = "the lowest digit remains")]
            1..=32 => (net.addr().to_bits() >> (128 - 4 * u32::from(digit))) as u32,
            _ => u32::from(net.prefix_len()) >> (4 * u32::from(34_u8.saturating_sub(digit))),
        },
    };
    (value & 15) as usize
}

/// Returns the first digit in which two nets differ.
fn first_difference(one: &IpNet, other: &IpNet) -> Option<u8> {
    let of_lengths = |address_digits: u8| {
        let different = one.prefix_len() ^ other.prefix_len();
        (different != 0).then(|| address_digits + 1 + digits(different.leading_zeros()))
    };
    match (one, other) {
        (IpNet::V4(one), IpNet::V4(other)) => match one.addr().to_bits() ^ other.addr().to_bits() {
            0 => of_lengths(8),
            different => Some(1 + digits(different.leading_zeros())),
        },
        (IpNet::V6(one), IpNet::V6(other)) => match one.addr().to_bits() ^ other.addr().to_bits() {
            0 => of_lengths(32),
            different => Some(1 + digits(different.leading_zeros())),
        },
        _ => Some(0),
    }
}

/// Returns how many whole digits so many bits are.
fn digits(bits: u32) -> u8 {
    u8::try_from(bits / 4).unwrap_or(u8::MAX)
}

/// Visits members, ascending.
#[derive(Clone, Debug, Default)]
pub struct Iter<'a> {
    leaf: std::slice::Iter<'a, IpNet>,
    /// What comes behind the leaf, the nearest last.
    rest: Vec<std::slice::Iter<'a, Option<Node>>>,
}

impl<'a> Iter<'a> {
    fn enter(&mut self, node: Option<&'a Node>) {
        match node {
            None => {}
            Some(Node::Leaf(members)) => self.leaf = members.iter(),
            Some(Node::Branch(branch)) => self.rest.push(branch.parts.iter()),
        }
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a IpNet;

    fn next(&mut self) -> Option<&'a IpNet> {
        loop {
            if let Some(member) = self.leaf.next() {
                return Some(member);
            }
            match self.rest.last_mut()?.next() {
                Some(node) => self.enter(node.as_ref()),
                None => {
                    self.rest.pop();
                }
            }
        }
    }
}

impl<'a> IntoIterator for &'a SetMembers {
    type Item = &'a IpNet;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl FromIterator<IpNet> for SetMembers {
    fn from_iter<Nets: IntoIterator<Item = IpNet>>(nets: Nets) -> Self {
        let mut members: Vec<IpNet> = nets.into_iter().collect();
        members.sort_unstable();
        members.dedup();
        Self {
            root: (!members.is_empty()).then(|| Node::build(&members)),
        }
    }
}

impl Extend<IpNet> for SetMembers {
    fn extend<Nets: IntoIterator<Item = IpNet>>(&mut self, nets: Nets) {
        for net in nets {
            self.insert(net);
        }
    }
}

impl PartialEq for SetMembers {
    fn eq(&self, other: &Self) -> bool {
        self.root == other.root
    }
}

impl Eq for SetMembers {}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.is(other)
            || match (self, other) {
                (Self::Leaf(one), Self::Leaf(other)) => one == other,
                (Self::Branch(one), Self::Branch(other)) => {
                    one.digit == other.digit && one.len == other.len && one.parts == other.parts
                }
                _ => false,
            }
    }
}

impl fmt::Debug for SetMembers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self).finish()
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.iter()).finish()
    }
}
