"""Validated settings. Every limit has a name here, Kafka's where Kafka has one.

`Producer({"linger.ms": 5})` and `Producer(linger_ms=5)` are the same. An unknown key is a ConfigError with the
nearest match; a setting that belongs to something not built yet is a ConfigError that says so.
"""

from rayqueue.config.broker import BROKER_SETTINGS, BrokerConfig
from rayqueue.config.clients import (
    ADMIN_SETTINGS,
    CONSUMER_SETTINGS,
    PRODUCER_SETTINGS,
    AdminConfig,
    ConsumerConfig,
    ProducerConfig,
)
from rayqueue.config.settings import Setting, merge, parse
from rayqueue.config.topic import TOPIC_SETTINGS, TopicConfig

__all__ = [
    "ADMIN_SETTINGS",
    "BROKER_SETTINGS",
    "CONSUMER_SETTINGS",
    "PRODUCER_SETTINGS",
    "TOPIC_SETTINGS",
    "AdminConfig",
    "BrokerConfig",
    "ConsumerConfig",
    "ProducerConfig",
    "Setting",
    "TopicConfig",
    "merge",
    "parse",
]
