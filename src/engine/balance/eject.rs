//! Passive ejection: a backend to which connections fail stays out for a while.
