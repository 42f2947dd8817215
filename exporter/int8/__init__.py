"""INT8: ranges, shared scales, which layers stay in fp32, and the quantised variants."""
