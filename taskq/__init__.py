"""Distributed tasks on RabbitMQ."""
