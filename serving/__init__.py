"""One model beyond one process: corpora on Ray Data, a service behind the Open Inference Protocol, Triton."""
