//! Connections through real workers, sockets and backends.

mod basics;
mod bulk;
mod failing;
mod limits;
mod model;
mod waiting;
