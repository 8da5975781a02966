//! Which backend a connection goes to: the candidates in the order in which they are to be tried.
