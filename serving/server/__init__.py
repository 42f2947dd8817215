"""HTTP and gRPC in front of a service, by the Open Inference Protocol. It needs the extra [serve]."""
