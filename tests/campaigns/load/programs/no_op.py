"""A bare gRPC server whose method `/no-op/SIZE` reads any message and answers with one of SIZE bytes.

Prints where it listens.
"""

import grpc
import uvloop


class NoOp(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        answer = b"x" * int(handler_call_details.method.rsplit("/", 1)[1])

        async def respond(_request: bytes, _context: grpc.aio.ServicerContext) -> bytes:
            return answer

        return grpc.unary_unary_rpc_method_handler(respond)


async def serve() -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((NoOp(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"listening at 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve())
