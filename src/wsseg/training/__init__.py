"""The one training loop that every trained stage uses, and what belongs to it.

``config`` is free of torch, so that recipes can be read quickly; everything else imports it.
"""
