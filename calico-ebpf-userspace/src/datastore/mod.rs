//! Where objects come from. Two datastores with one behaviour: `file` and `etcdv3`.

pub mod etcd;
pub mod feed;
pub mod file;
