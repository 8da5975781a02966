//! mainstay keeps the services of one Linux host alive. This page is its architecture; the modules follow in reading order.
//!
//! # One decides, the others do
//!
//! [`engine`] decides. It is a function from an event and the time to a list of actions: no clock, no I/O, no thread, no randomness but
//! its own seeded generator. The same events give the same actions, which is why a flight recording can be replayed
//! and why thousands of simulated crashes cost a second.
//!
//! [`runtime`] is the shell around it: one thread and one epoll. It turns ready descriptors into events and actions into calls. It
//! holds pidfds, groups, pipes and sockets, and decides nothing. Whatever happens becomes one `Note`, which is the log line, the
//! journal entry, the metric and a link of the chain that `mainstay why` tells.
//!
//! # One process per way of dying
//!
//! The binary runs in roles. The agent (`mainstay run`) must never wait for a disk or a network, so what may wait is another
//! process of the same binary, supervised by the same engine: [`logs`] (output pipes, files, the event journal, operator
//! decisions, and the keeper of descriptors that outlive the agent), [`checks`] (network probes, and readings of the host) and [`proxy`]
//! (connections to balancers; only where there are any) and [`copies`]
//! (one for each set). Configuration is looked at by a short-lived loader child ([`runtime::load`]), because the files
//! it names may lie on a disk that does not answer.
//!
//! # The host
//!
//! Roles read, the engine judges. [`checks`] has three of them: `@checks` for what no device can hold up (/proc, block statistics, netlink,
//! the kernel's log), `@sensors` for drivers, and one helper for each disk and each mount without one, for what may wait for it for ever.
//! They send raw numbers ([`engine::host::sample`]); rates, thresholds, confirmation and flaps are [`engine::host`]'s business, and so is
//! who is concerned: a service by the `data` and `nics` that it declares. Nobody waits for a helper that is stuck.
//!
//! # Connections
//!
//! The engine knows when a replica may be given connections: it makes the tables of backends ([`engine::balance::table`]) and drains a
//! replica before it stops it. The [`proxy`] picks by the rules of [`engine::balance`] and moves bytes; it goes on with its last tables
//! while no agent lives, and the agent holds the listening sockets, so that neither's death refuses a client.
//!
//! # Fences
//!
//! A replica that harms others is fenced: throttled, frozen, killed, held ([`engine::fence`]). Its limits at any moment are one pure function of
//! the configuration, its fence and its probation; the shell brings them into force and reports what the kernel refused. The engine asks
//! for readings only while something may come of them, and calls a step proven only when one of them, or the end of the tree, shows it. Each fence
//! leaves a record: what was seen, decided, written and proven, and when.
//!
//! # Copies
//!
//! [`copies`] is one role a set: it compares the sources with the manifest of the newest copy, writes what is other, links the rest, syncs once, reads back
//! and commits by a rename. When that happens, what stays ([`engine::copies::rotate`]), whom it must hold still for and what a failing disk means for
//! it is the engine's to say. The commands do the same work without an agent, under the same locks: a rescue shell has nothing else.
//!
//! # What survives
//!
//! The agent may be killed at any moment. Its children write into named pipes that they hold open themselves; each replica has a record on tmpfs
//! ([`runtime::record`]), written before its program runs; the next agent believes a record only if boot, start time, pidfd inode
//! and group agree ([`runtime::adopt`]). No signal is ever sent to a number: only through a pidfd, or to a group.
//!
//! # Who may use whom
//!
//! ```text
//! main ──► cli ──► runtime ──► config ──► engine
//!           │       │    └───► api ─────► engine (views), sys
//!           │       ├──► checks, logs ──► sys
//!           │       ├──► proxy ──► engine (balance), sys
//!           │       ├──► copies ──► engine (copies), sys
//!           │       └──► sys
//!           └──► api (client), config, sample
//! ```
//!
//! `engine` and `sys` use nothing else of ours; `checks`, `logs`, `proxy` and `copies` never see each other. `tests/tidy.rs` holds us to it.

pub mod engine;

pub mod runtime;

pub mod sys;

pub mod config;

pub mod logs;

pub mod checks;

pub mod proxy;

pub mod copies;

pub mod api;

pub mod cli;

pub mod sample;
