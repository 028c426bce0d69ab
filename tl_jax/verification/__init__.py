"""Whether a model computes what its reference implementation computes, and a certificate that says so."""
