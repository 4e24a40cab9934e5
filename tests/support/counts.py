"""What a service counts as under way, which only its bounds would show otherwise."""

from server.rpc.pipeline import CallPipeline


def counted(pipeline: CallPipeline) -> tuple[int, int]:
    """How many calls and how many streams are under way."""
    return pipeline._calls, pipeline._streams
