"""The broker contract on RabbitMQ 3.10 to 4.3: the only place that knows aiormq and the AMQP wire.

aiormq (of aio-pika) makes the connections, channels and declarations. What moves with every message
(publishes, confirms, deliveries, acknowledgements) goes past it, in `frames`: its own path costs
70 to 130 µs a message, this one about a tenth.
"""
