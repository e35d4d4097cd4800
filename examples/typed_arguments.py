"""Arguments and results with types: models, dataclasses, dates, enums arrive as what they were.

python examples/typed_arguments.py
"""

import asyncio
import enum
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from pydantic import BaseModel, Field
from running import an_app, worker

from taskq import InvalidArguments, NotSerializable

app = an_app()


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Line:
    article: str
    price: Decimal
    colour: Colour = Colour.RED


class Order(BaseModel):
    number: int = Field(gt=0)
    day: date
    lines: list[Line]


class Receipt(BaseModel):
    order: int
    total: Decimal


@app.task
async def settle(order: Order, discount: float = 0.0) -> Receipt:
    assert isinstance(order, Order) and isinstance(order.lines[0], Line)
    assert order.lines[1].colour is Colour.BLUE
    total = sum((line.price for line in order.lines), Decimal(0)) * Decimal(str(1 - discount))
    return Receipt(order=order.number, total=total)


async def main() -> None:
    lines = [Line("chair", Decimal("49.90")), Line("lamp", Decimal("30.10"), Colour.BLUE)]
    order = Order(number=7, day=date(2026, 2, 28), lines=lines)
    async with worker(app):
        receipt = await (await settle.enqueue_async(order, discount=0.5)).get_result_async(timeout=10)
    assert receipt == Receipt(order=7, total=Decimal("40.00")), receipt
    print(receipt)

    # Wrong arguments fail at the enqueue, before anything is sent; type checkers refuse them too.
    wrong = [
        lambda: settle.message({"number": -1, "day": "2026-02-30", "lines": []}),  # type: ignore[arg-type]
        lambda: settle.message(),  # type: ignore[call-arg]
        lambda: settle.message(order, rebate=1),  # type: ignore[call-arg]
    ]
    for attempt in wrong:
        try:
            attempt()
        except InvalidArguments as error:
            print("refused:", str(error).splitlines()[0][:100])
        else:
            raise AssertionError("wrong arguments were accepted")

    @app.task
    async def anything(value: object) -> None: ...

    try:
        anything.message(object())
    except NotSerializable as error:
        print("refused:", error)
    else:
        raise AssertionError("an object that cannot travel was accepted")


if __name__ == "__main__":
    asyncio.run(main())
