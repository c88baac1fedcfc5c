"""The Open Inference Protocol's messages for gRPC, made from the .proto files beside this one (`make proto`)."""
