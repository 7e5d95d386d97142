//! The kernel: maps, links, routes, sysctls.
