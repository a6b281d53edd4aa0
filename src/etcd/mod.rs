//! Reading etcd at a revision, leases, bounded writes.
