"""The action `metadata`, the same at a broker and at the coordinator."""

from __future__ import annotations

import logging
from collections.abc import Callable

from rayqueue.config.broker import BrokerConfig
from rayqueue.protocol.messages import (
    CreateTopicsRequest,
    MetadataRequest,
    MetadataResponse,
    TopicSpec,
    TopicsResponse,
)

log = logging.getLogger(__name__)

AUTO_CREATE_TIMEOUT_MS = 10_000


def answer_metadata(
    request: MetadataRequest,
    config: BrokerConfig,
    read: Callable[[MetadataRequest], MetadataResponse],
    create: Callable[[CreateTopicsRequest], TopicsResponse],
) -> MetadataResponse:
    """Answers from what is known; creates missing topics first where the client and the cluster want that.

    Args:
        read: answers from the present image, waiting for `min_index`. create: asks the coordinator.
    """
    response = read(request)
    if not (request.auto_create and request.topics and config.auto_create_topics_enable):
        return response
    missing = sorted(set(request.topics) - {topic.name for topic in response.topics})
    if not missing:
        return response
    specs = [TopicSpec(name, -1, -1, {}, b"", "") for name in missing]
    created = create(CreateTopicsRequest(specs, AUTO_CREATE_TIMEOUT_MS))
    for result in created.results:
        # Somebody else may have been faster; a name that cannot be created stays missing, which is the answer.
        if result.error and result.error != "TopicAlreadyExists":
            log.warning("topic %r is not created: %s", result.name, result.message)
    return read(MetadataRequest(request.topics, max(created.index, request.min_index)))
