"""The API of eliza-sessions: generated stubs (`*_pb2`, `*_pb2_grpc`) and what every user of them needs (`times`, `values`, `errors`)."""
