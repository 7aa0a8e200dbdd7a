"""A request that is not answered as asked: a status and one sentence."""


class Refusal(Exception):
    """Becomes an answer with `status` and {"error": sentence}."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status, self.sentence = status, sentence
