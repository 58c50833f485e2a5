"""What a run promises of its model, and the check of it where hfadapt is not.

`writing` keeps some rows with what training made of them; `loaded_alone` is what a fresh process runs, with
transformers and without hfadapt; `checking` compares, and `comparing` says what differs.
"""

from hfadapt.contract.checking import Checked, Fresh, check, check_all

__all__ = ["Checked", "Fresh", "check", "check_all"]
