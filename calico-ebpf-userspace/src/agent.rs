//! The agent: tasks and their order.
