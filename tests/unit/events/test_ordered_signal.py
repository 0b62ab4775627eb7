"""The signal below the bus: receivers in the order in which they came."""

from forge_consensus.events.ordered_signal import OrderedSignal


def test_receivers_are_called_in_the_order_in_which_they_came() -> None:
    signal = OrderedSignal()
    seen: list[int] = []

    def receiver(number: int) -> object:
        def receive(_: object) -> None:
            seen.append(number)

        return signal.connect(receive, weak=False)

    receivers = [receiver(number) for number in range(50)]
    signal.connect(receivers[0], weak=False)  # type: ignore[type-var]
    signal.send(None)
    assert seen == list(range(50))


def test_a_receiver_that_left_and_came_back_is_last() -> None:
    signal = OrderedSignal()
    seen: list[str] = []
    first = signal.connect(lambda _: seen.append("first"), weak=False)
    signal.connect(lambda _: seen.append("second"), weak=False)
    signal.disconnect(first)
    signal.disconnect(first)
    signal.send(None)
    signal.connect(first, weak=False)
    signal.send(None)
    assert seen == ["second", "second", "first"]
