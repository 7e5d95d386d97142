//! Parts of a state that one version has in common with the next.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// A value that is the same memory in all versions of a state until one of them changes it: to copy it costs nothing,
/// and to find that it has not changed is to compare two pointers.
#[derive(Debug, Default)]
pub struct Shared<T>(Arc<T>);

impl<T> Shared<T> {
    /// Returns whether both are the same memory; then they are equal.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone> DerefMut for Shared<T> {
    /// From here on this version has a value of its own.
    fn deref_mut(&mut self) -> &mut T {
        Arc::make_mut(&mut self.0)
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        self.is(other) || *self.0 == *other.0
    }
}

impl<T: Eq> Eq for Shared<T> {}

impl<T> From<T> for Shared<T> {
    fn from(value: T) -> Self {
        Self(Arc::new(value))
    }
}

impl<Item, T: FromIterator<Item>> FromIterator<Item> for Shared<T> {
    fn from_iter<Items: IntoIterator<Item = Item>>(items: Items) -> Self {
        Self::from(items.into_iter().collect::<T>())
    }
}

#[expect(clippy::into_iter_without_iter, reason = "what is shared has it")]
impl<'a, T> IntoIterator for &'a Shared<T>
where
    &'a T: IntoIterator,
{
    type Item = <&'a T as IntoIterator>::Item;
    type IntoIter = <&'a T as IntoIterator>::IntoIter;

    fn into_iter(self) -> Self::IntoIter {
        (&**self).into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_version_that_changes_gets_memory_of_its_own() {
        let before: Shared<Vec<u8>> = [1, 2].into_iter().collect();
        let mut now = before.clone();
        assert!(now.is(&before) && now == before);
        now.push(3);
        assert_eq!((&*before, &*now), (&vec![1, 2], &vec![1, 2, 3]));
        assert!(!now.is(&before) && now != before);
        now.pop();
        assert!(!now.is(&before) && now == before);
    }
}
