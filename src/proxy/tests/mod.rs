//! Connections through real workers, sockets and backends.

mod basics;
