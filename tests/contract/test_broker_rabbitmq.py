"""The broker contract on RabbitMQ."""

from __future__ import annotations

import pytest

from tests.contract.broker_contract import BrokerContract


class TestRabbitMQ(BrokerContract):
    @pytest.fixture
    def url(self, rabbitmq_url: str) -> str:
        return rabbitmq_url
