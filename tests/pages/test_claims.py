"""Each claim of README.md and SECURITY.md, with the tests that fail when it turns false.

A sentence that is added to SECURITY.md's promises, or a row to README's table, fails here until
somebody names its tests, or says that it limits a promise and makes none.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path
from typing import Final

from paths import ROOT, TESTS

# The beginning of a claim, and its tests: file and names, without `test_`.
README_CLAIMS: Final[dict[str, dict[str, list[str]]]] = {
    "A sub-agent answers in another agent's name": {
        "spawn": [
            "another_identitys_proof_is_refused",
            "an_answer_to_a_changed_request_is_refused",
            "an_earlier_answer_is_refused",
            "swapped_answers_of_parallel_children_are_refused",
            "a_meddled_answer_is_refused_without_a_trace",
        ]
    },
    "A sub-agent's server, or a proxy in front of it": {
        "remote": [
            "a_meddled_answer_is_refused",
            "a_recorded_answer_is_refused",
            "swapped_answers_of_two_children_are_refused",
            "a_refusal_is_on_record_and_not_in_the_servers_words",
        ]
    },
    "Somebody calls a served sub-agent without permission": {
        "remote": [
            "a_caller_that_is_not_accepted_gets_no_work",
            "an_answer_to_another_question_is_refused",
            "a_replayed_request_is_not_worked_on_again",
        ]
    },
    "A sub-agent returns `Command(graph=Command.PARENT)`": {
        "spawn": [
            "a_command_to_the_parent_is_refused",
            "a_meddled_answer_is_refused_without_a_trace",
            "an_answer_over_the_limit_is_refused",
        ]
    },
    "A prompt-injected model asks for another agent's code": {
        "tools": ["a_model_cannot_choose_whom_it_acts_as"],
        "tools_in_agents": ["no_code_of_another_by_injection"],
        "verification": ["a_code_made_for_another_is_not_accepted"],
    },
    "A verified answer contains messages that delete": {
        "accepted_messages": [
            "no_message_of_a_child_steers_its_parent",
            "what_was_left_out_is_said",
            "echoes_keep_their_ids_and_changes_of_them_do_not",
        ],
        "interrupts": [
            "a_child_cannot_have_its_answer_given_to_another_node",
            "two_children_that_claim_one_id_are_still_two",
        ],
    },
    "A model, a client or a reviewer tries to approve": {
        "tool_gate": [
            "it_waits_and_pays_once",
            "a_stranger_with_the_thread_cannot_answer",
            "changed_arguments_are_another_question",
            "a_kill_after_the_approval_was_used",
        ],
        "approved_payments": ["a_killed_process_never_pays_twice"],
        "approval_middleware": [
            "edited_arguments_are_asked_again",
            "a_reviewers_answer_approves_nothing",
        ],
    },
    "Agent C gets hold of A's code for B": {
        "verification": [
            "a_code_made_for_another_is_not_accepted",
            "a_code_is_good_with_its_own_message_alone",
        ],
        "tools_in_agents": [
            "a_relayed_code_vouches_for_no_words",
            "a_relayed_code_carries_its_makers_words_or_none",
        ],
    },
    "Somebody guesses or replays a code": {
        "races": ["one_code_has_one_winner", "of_200_guesses_at_once_five_are_evaluated"],
        "verification": ["a_spent_code_is_not_accepted_in_the_next_step"],
        "ledger": ["ten_failures_in_a_row_lock_the_pair_for_15_minutes"],
        "guessing": [
            "a_year_of_guessing_at_a_person",
            "a_year_of_guessing_at_an_agent",
            "a_year_of_guessing_between_her_own_right_codes",
            "a_year_of_guessing_with_a_redis_that_is_flushed_each_week",
        ],
    },
    "The store that counts attempts is gone": {
        "ledger": [
            "without_its_database_nothing_is_accepted",
            "with_a_full_disk_nothing_is_accepted",
            "a_spent_code_that_was_forgotten_is_not_good_again",
        ],
        "faults_redis": [
            "without_redis_nothing_is_accepted",
            "a_flushed_redis_makes_no_spent_code_good",
            "an_older_dump_makes_no_spent_code_good",
            "a_promoted_replica_that_lags_makes_no_spent_code_good",
        ],
    },
    "A node returns, streams, stores, raises": {
        "canary": ["no_mistake_leaves_the_key_anywhere"],
        "boundary": [
            "state_that_holds_a_key_is_refused",
            "an_exception_loses_the_key_and_keeps_all_else",
        ],
    },
    "A caller, a model or the state says": {
        "per_person": ["no_lie_chooses_a_person", "a_model_chooses_nobody"],
        "server": ["each_run_uses_its_own_persons_key"],
        "own_keys": ["200_interleaved_runs_use_their_own_persons_keys"],
        "acting_at_once": ["runs_at_once_use_their_own_persons_keys"],
    },
    "Somebody steals, changes or replays a checkpoint": {
        "checkpoints": [
            "a_sealed_saver_writes_nothing_in_clear",
            "a_changed_or_exchanged_value_is_refused",
        ],
        "checkpoints_forged": [
            "a_checkpoint_belongs_to_its_place",
            "an_approval_is_not_replayed",
            "an_older_checkpoint_is_no_newer_one",
        ],
    },
    "Somebody rewrites the audit trail": {"audit_chain": ["what_is_sealed_cant_be_changed_unseen"]},
    "Somebody steals the database file": {
        "stolen_database": [
            "no_byte_of_the_files_is_a_secret",
            "what_is_in_the_file_is_no_api_key",
        ]
    },
    "Somebody moves a ciphertext to another row": {
        "stolen_database": [
            "a_credential_moved_to_another_row_does_not_open",
            "a_credential_whose_fields_were_changed_does_not_open",
            "a_totp_secret_moved_to_another_row_does_not_open",
        ]
    },
}

SECURITY_CLAIMS: Final[dict[str, dict[str, list[str]]]] = {
    "Code acts as an agent because": {
        "tools": ["a_model_cannot_choose_whom_it_acts_as"],
        "spawn_tool": ["what_isnt_a_task_is_said"],
    },
    "No tool has a field for the agent": {
        "tools": ["a_model_cannot_choose_whom_it_acts_as"],
        "spawn_tool": ["what_isnt_a_task_is_said"],
    },
    "Handles can't be pickled.": {"verification": ["handles_show_and_give_away_nothing"]},
    "If a handle's agent doesn't exist,": {
        "verification": [
            "a_handle_of_nobody_writes_nothing",
            "a_handle_of_nobody_gets_no_answer_and_no_ok",
        ]
    },
    "The audit never names the operator": {
        "verification": [
            "a_handle_of_nobody_writes_nothing",
            "a_handle_of_nobody_gets_no_answer_and_no_ok",
        ]
    },
    "There are two kinds of codes.": {
        "verification": [
            "of_many_verifiers_with_one_plain_code_one_wins",
            "audience_codes_are_spent_for_each_verifier",
            "a_code_made_for_another_is_not_accepted",
        ],
        "otp": ["totp_matches_rfc_6238", "ocra_matches_rfc_6287_with_time"],
    },
    "A plain code (RFC 6238, SHA-1,": {
        "verification": [
            "of_many_verifiers_with_one_plain_code_one_wins",
            "audience_codes_are_spent_for_each_verifier",
            "a_code_made_for_another_is_not_accepted",
        ],
        "otp": ["totp_matches_rfc_6238", "ocra_matches_rfc_6287_with_time"],
    },
    "An audience code (RFC 6287, SHA-256,": {
        "verification": [
            "of_many_verifiers_with_one_plain_code_one_wins",
            "audience_codes_are_spent_for_each_verifier",
            "a_code_made_for_another_is_not_accepted",
        ],
        "otp": ["totp_matches_rfc_6238", "ocra_matches_rfc_6287_with_time"],
    },
    "Checking the limits, counting": {
        "ledger": [
            "an_attempt_is_charged_though_the_callers_transaction_rolls_back",
            "limits_outlive_the_process",
        ],
        "races": ["one_code_has_one_winner", "everybody_verifies_everybody"],
        "faults_redis": ["a_connection_cut_before_the_answer_is_a_refusal"],
    },
    "The caller receives the outcome": {
        "ledger": [
            "an_attempt_is_charged_though_the_callers_transaction_rolls_back",
            "limits_outlive_the_process",
        ],
        "races": ["one_code_has_one_winner", "everybody_verifies_everybody"],
        "faults_redis": ["a_connection_cut_before_the_answer_is_a_refusal"],
    },
    "So a rollback by the caller,": {
        "ledger": [
            "an_attempt_is_charged_though_the_callers_transaction_rolls_back",
            "limits_outlive_the_process",
        ],
        "races": ["one_code_has_one_winner", "everybody_verifies_everybody"],
        "faults_redis": ["a_connection_cut_before_the_answer_is_a_refusal"],
    },
    "A code is accepted in its own": {
        "verification": ["the_window_is_one_step_each_way"],
        "faults": ["a_verifier_whose_clock_is_off_decides_by_the_ledgers"],
    },
    "The clock of the server": {
        "verification": ["the_window_is_one_step_each_way"],
        "faults": ["a_verifier_whose_clock_is_off_decides_by_the_ledgers"],
    },
    "An accepted audience code says": {"tools_in_agents": ["a_relayed_code_vouches_for_no_words"]},
    "It doesn't say who sent": {"tools_in_agents": ["a_relayed_code_vouches_for_no_words"]},
    "Anyone who gets the code": {"tools_in_agents": ["a_relayed_code_vouches_for_no_words"]},
    "A code that was made for a message": {
        "verification": ["a_code_is_good_with_its_own_message_alone"],
        "tools_in_agents": ["a_relayed_code_carries_its_makers_words_or_none"],
    },
    "A code that was made without": {
        "verification": ["a_code_is_good_with_its_own_message_alone"],
        "tools_in_agents": ["a_relayed_code_carries_its_makers_words_or_none"],
    },
    "So a relayed code confirms": {
        "verification": ["a_code_is_good_with_its_own_message_alone"],
        "tools_in_agents": ["a_relayed_code_carries_its_makers_words_or_none"],
    },
    "The answers of the tools say": {
        "tools_in_agents": ["a_message_can_not_pose_as_the_tools_words"]
    },
    "A plain code can't be bound to": {"verification": ["a_plain_code_is_bound_to_nothing"]},
    "A verifier accepts one code of": {
        "verification": ["one_code_of_a_step_is_accepted_bound_or_not"]
    },
    "Failures are counted in lanes.": {
        "ledger": [
            "a_hundred_failures_of_others_lock_nobody_out",
            "a_hundred_wrong_codes_said_to_one_verifier_close_its_own_lane_only",
        ],
        "lockout": ["100_wrong_codes_said_to_one_verifier_stop_no_other"],
    },
    "Each lane is for one verified": {
        "ledger": [
            "a_hundred_failures_of_others_lock_nobody_out",
            "a_hundred_wrong_codes_said_to_one_verifier_close_its_own_lane_only",
        ],
        "lockout": ["100_wrong_codes_said_to_one_verifier_stop_no_other"],
    },
    "A count in one lane": {"ledger": ["a_hundred_failures_of_others_lock_nobody_out"]},
    "So strangers can lock only": {"ledger": ["a_hundred_failures_of_others_lock_nobody_out"]},
    "an audience code (8 digits)": {
        "ledger": ["a_hundred_wrong_codes_said_to_one_verifier_close_its_own_lane_only"]
    },
    "a plain code of an agent (6 digits),": {
        "ledger": ["who_was_shown_a_right_plain_code_has_a_lane_of_its_own"]
    },
    "a plain code of an agent or of": {
        "ledger": ["who_was_shown_a_right_plain_code_has_a_lane_of_its_own"]
    },
    "a plain code, by a handle that": {
        "ledger": ["who_may_verify_nobody_closes_no_lane_of_others"]
    },
    "a person's code, for somebody": {
        "lockout": [
            "alice_says_yes_after_150_resumes_by_a_stranger",
            "plain_codes_of_an_agent_about_her_close_the_strangers_lane_only",
        ]
    },
    "a person's code, from anybody": {
        "lockout": [
            "alice_says_yes_after_150_resumes_by_a_stranger",
            "plain_codes_of_an_agent_about_her_close_the_strangers_lane_only",
        ]
    },
    "a first code of a person's enrolment": {"guessing": ["a_year_of_guessing_at_first_codes"]},
    "After 5 failures in a minute,": {
        "ledger": ["after_five_failures_a_verifier_waits_and_others_do_not"]
    },
    "After 10 failures in a row, the": {
        "ledger": [
            "ten_failures_in_a_row_lock_the_pair_for_15_minutes",
            "locks_double_and_give_one_try_each",
            "a_lock_stays_the_longest_for_years",
        ]
    },
    "After each lock, one attempt": {
        "ledger": [
            "ten_failures_in_a_row_lock_the_pair_for_15_minutes",
            "locks_double_and_give_one_try_each",
            "a_lock_stays_the_longest_for_years",
        ]
    },
    "Each further failure doubles": {
        "ledger": [
            "ten_failures_in_a_row_lock_the_pair_for_15_minutes",
            "locks_double_and_give_one_try_each",
            "a_lock_stays_the_longest_for_years",
        ]
    },
    "A right code, `users unlock`": {
        "ledger": [
            "a_success_ends_the_row",
            "unlocking_forgets_every_lock_and_nothing_that_was_spent",
        ]
    },
    "The first lock of a lane has": {"ledger": ["the_first_lock_of_a_lane_is_an_alarm"]},
    "If attackers guess for a": {
        "guessing": [
            "a_year_of_guessing_at_a_person",
            "a_year_of_guessing_at_an_agent",
            "a_year_of_guessing_between_her_own_right_codes",
            "a_year_of_guessing_with_a_redis_that_is_flushed_each_week",
        ],
        "ledger": ["a_policy_that_is_taken_keeps_the_promise"],
    },
    "It is 9.5 in 10,000 for a person": {
        "guessing": [
            "a_year_of_guessing_at_a_person",
            "a_year_of_guessing_at_an_agent",
            "a_year_of_guessing_between_her_own_right_codes",
            "a_year_of_guessing_with_a_redis_that_is_flushed_each_week",
        ],
        "ledger": ["a_policy_that_is_taken_keeps_the_promise"],
    },
    "It is the same for an agent (four": {
        "guessing": [
            "a_year_of_guessing_at_a_person",
            "a_year_of_guessing_at_an_agent",
            "a_year_of_guessing_between_her_own_right_codes",
            "a_year_of_guessing_with_a_redis_that_is_flushed_each_week",
        ],
        "ledger": ["a_policy_that_is_taken_keeps_the_promise"],
    },
    '"family", "others" and two of': {
        "guessing": [
            "a_year_of_guessing_at_a_person",
            "a_year_of_guessing_at_an_agent",
            "a_year_of_guessing_between_her_own_right_codes",
            "a_year_of_guessing_with_a_redis_that_is_flushed_each_week",
        ],
        "ledger": ["a_policy_that_is_taken_keeps_the_promise"],
    },
    "The chance that a single guess": {"ledger": ["a_policy_that_is_taken_keeps_the_promise"]},
    "A lane that receives no right": {"ledger": ["a_policy_that_is_taken_keeps_the_promise"]},
    "Such resets allow 103 more": {"ledger": ["a_right_code_forgives_only_so_many_guesses_a_year"]},
    "Three quarters of this allowance": {
        "ledger": ["a_right_code_forgives_only_so_many_guesses_a_year"]
    },
    "A right code, an unlock": {"ledger": ["a_right_code_forgives_only_so_many_guesses_a_year"]},
    "When it is used up,": {"ledger": ["a_right_code_forgives_only_so_many_guesses_a_year"]},
    "A `VerificationPolicy` that can't": {
        "ledger": ["a_policy_that_lets_guessing_succeed_is_refused"]
    },
    "The bound holds even if": {
        "guessing": [
            "a_year_of_guessing_at_a_person_who_is_unlocked_and_enrolled_again_and_again",
            "a_year_of_guessing_at_an_agent_that_is_unlocked_and_rotated_again_and_again",
        ],
        "ledgers_agree": ["both_decide_alike"],
    },
    "During the overlap of two secrets,": {
        "guessing": ["a_year_of_guessing_at_an_agent_that_is_unlocked_and_rotated_again_and_again"]
    },
    "In a lane that has used up its": {
        "guessing": ["a_year_of_guessing_at_an_agent_that_is_unlocked_and_rotated_again_and_again"]
    },
    "For all enrolments of one": {"guessing": ["a_year_of_guessing_at_first_codes"]},
    "A first code that is": {
        "mfa": [
            "a_phone_whose_clock_is_off_uses_up_nothing",
            "a_code_that_was_told_to_be_of_a_later_moment_never_confirms",
        ]
    },
    "It comes from a phone that has": {
        "mfa": [
            "a_phone_whose_clock_is_off_uses_up_nothing",
            "a_code_that_was_told_to_be_of_a_later_moment_never_confirms",
        ]
    },
    "The message gives the difference": {
        "mfa": [
            "a_phone_whose_clock_is_off_uses_up_nothing",
            "a_code_that_was_told_to_be_of_a_later_moment_never_confirms",
        ]
    },
    "Nobody can unlock a lane": {"ledger": ["a_right_code_forgives_only_so_many_guesses_a_year"]},
    "After each lock of at": {"ledger": ["a_right_code_forgives_only_so_many_guesses_a_year"]},
    "`users unlock` lists the lanes": {
        "ledger": ["a_right_code_forgives_only_so_many_guesses_a_year"]
    },
    "Only the person, and anyone who": {
        "lockout": ["alice_says_yes_after_150_resumes_by_a_stranger"]
    },
    "If somebody else has the key,": {
        "guessing": ["a_year_of_guessing_at_a_person_who_is_unlocked_and_enrolled_again_and_again"]
    },
    "The person can then use": {
        "guessing": ["a_year_of_guessing_at_a_person_who_is_unlocked_and_enrolled_again_and_again"]
    },
    "No lane counts them, and": {
        "guessing": ["a_year_of_guessing_at_a_person_who_is_unlocked_and_enrolled_again_and_again"]
    },
    "You can also enrol the": {
        "guessing": ["a_year_of_guessing_at_a_person_who_is_unlocked_and_enrolled_again_and_again"]
    },
    "The person can enter them.": {"guessing": ["a_year_of_guessing_at_first_codes"]},
    "So can anyone who has": {"guessing": ["a_year_of_guessing_at_first_codes"]},
    "`mfa.confirm` then evaluates": {
        "mfa": [
            "who_was_shown_the_secret_enrols_whoever_used_up_first_codes",
            "only_the_present_enrolment_proves_possession",
        ]
    },
    'The lane "first" is used': {
        "mfa": [
            "who_was_shown_the_secret_enrols_whoever_used_up_first_codes",
            "only_the_present_enrolment_proves_possession",
        ]
    },
    "An operator can still enrol the": {
        "operations": ["at_a_terminal_the_first_code_is_asked_for_until_it_is_right"]
    },
    "An unknown name, an inactive": {
        "verification": ["refusals_look_the_same"],
        "same_work": [
            "a_long_flood_hears_the_same_about_whatever_name",
            "each_answer_costs_the_same_about_whatever_name",
            "what_one_route_counts_tells_another_nothing",
        ],
    },
    "Proofs and API keys have 256": {
        "proof": ["failures_lock_nobody"],
        "api_keys": ["failed_tries_never_lock"],
    },
    "Their failures are audited, but": {
        "proof": ["failures_lock_nobody"],
        "api_keys": ["failed_tries_never_lock"],
    },
    "Strangers can't lock the lane": {
        "ledger": [
            "strangers_never_close_the_lane_of_the_peers_family",
            "guesses_of_the_family_close_no_lane_of_others",
        ]
    },
    "No code of a new": {
        "clocks": ["a_new_secret_begins_unspent", "a_spent_code_of_the_old_secret_stays_spent"]
    },
    "During an overlap, codes that": {
        "clocks": ["a_new_secret_begins_unspent", "a_spent_code_of_the_old_secret_stays_spent"]
    },
    "No code is accepted because": {
        "clocks": [
            "a_step_that_was_spent_ahead_of_the_clock_is_named_and_repaired",
            "locks_and_waits_from_ahead_last_no_longer_than_others",
            "an_epoch_ahead_of_the_clock_is_repaired_by_itself",
        ]
    },
    "`users unlock` sets such a spent": {
        "clocks": ["a_step_that_was_spent_ahead_of_the_clock_is_named_and_repaired"]
    },
    "If a clock was ahead,": {
        "clocks": ["a_step_that_was_spent_ahead_of_the_clock_is_named_and_repaired"]
    },
    "The steps that were spent after": {
        "ledger": [
            "what_was_spent_ahead_of_the_clock_stays_spent_when_its_moment_comes",
            "an_unlock_by_a_clock_that_is_behind_makes_no_spent_code_good",
        ]
    },
    "Their codes are still refused": {
        "ledger": [
            "what_was_spent_ahead_of_the_clock_stays_spent_when_its_moment_comes",
            "an_unlock_by_a_clock_that_is_behind_makes_no_spent_code_good",
        ]
    },
    "If a peer is enrolled": {
        "peering": ["a_spent_code_stays_spent_when_its_secret_is_enrolled_again"]
    },
    "If a clock jumps while": {
        "clocks": [
            "a_clock_that_is_behind_at_the_start_makes_no_spent_code_good",
            "a_clock_that_is_set_begins_a_new_epoch",
        ]
    },
    "The [ledger](docs/concepts.md#ledger-and-limits), which counts attempts": {
        "clocks": [
            "a_clock_that_is_behind_at_the_start_makes_no_spent_code_good",
            "a_clock_that_is_set_begins_a_new_epoch",
        ]
    },
    "After a power cut, SQLite with": {
        "ledger": ["a_spent_code_that_was_forgotten_is_not_good_again"]
    },
    "The ledger detects that the machine": {
        "ledger": ["after_a_restart_what_may_have_been_spent_is_refused"]
    },
    "If the operating system doesn't": {"storage": ["connections_are_set_up"]},
    "With Redis, spent steps, failures": {
        "faults_redis": [
            "a_flushed_redis_makes_no_spent_code_good",
            "an_evicted_key_makes_no_spent_code_good",
            "a_restarted_redis_makes_no_spent_code_good",
        ]
    },
    "A Redis that was flushed, evicted,": {
        "faults_redis": [
            "a_flushed_redis_makes_no_spent_code_good",
            "an_evicted_key_makes_no_spent_code_good",
            "a_restarted_redis_makes_no_spent_code_good",
        ]
    },
    "The same is true if you change": {
        "faults_redis": [
            "a_flushed_redis_makes_no_spent_code_good",
            "an_evicted_key_makes_no_spent_code_good",
            "a_restarted_redis_makes_no_spent_code_good",
        ]
    },
    "A ledger of your own (`Pipelit(ledger=…)`)": {
        "own_ledger": [
            "a_code_is_spent_in_every_ledger",
            "a_lock_holds_in_every_ledger",
            "a_spent_code_turns_no_factor_off",
            "only_a_code_that_is_right_is_accepted",
            "what_is_not_written_is_not_accepted",
        ]
    },
    "Under every ledger, spent codes,": {
        "own_ledger": [
            "a_code_is_spent_in_every_ledger",
            "a_lock_holds_in_every_ledger",
            "a_spent_code_turns_no_factor_off",
            "only_a_code_that_is_right_is_accepted",
            "what_is_not_written_is_not_accepted",
        ]
    },
    "So a process with another ledger,": {
        "own_ledger": [
            "a_code_is_spent_in_every_ledger",
            "a_lock_holds_in_every_ledger",
            "a_spent_code_turns_no_factor_off",
            "only_a_code_that_is_right_is_accepted",
            "what_is_not_written_is_not_accepted",
        ]
    },
    "Agents that `create_agent_user`": {
        "provisioning": ["names_with_a_prefix"],
        "tools": ["a_developer_chooses_the_prefix"],
    },
    "The part that the model": {
        "provisioning": ["names_with_a_prefix"],
        "tools": ["a_developer_chooses_the_prefix"],
    },
    "So a prompt can't take a name": {
        "provisioning": ["names_with_a_prefix"],
        "tools": ["a_developer_chooses_the_prefix"],
    },
    "A name is never used twice, even": {"users": ["a_name_is_not_given_again_after_deactivation"]},
    "An agent may have ten active": {
        "provisioning": [
            "what_a_creators_agents_make_counts_as_its_own",
            "agents_leave_places_for_agents_that_people_make",
        ]
    },
    "All agents of an owner together": {
        "provisioning": [
            "what_a_creators_agents_make_counts_as_its_own",
            "agents_leave_places_for_agents_that_people_make",
        ]
    },
    "`get_totp_code` shows whether an agent": {
        "tools_in_agents": ["a_deactivated_audience_gets_no_code"],
        "tools": ["there_is_no_code_for_whoever_cannot_check_it"],
    },
    "Its answer is the same": {
        "tools_in_agents": ["a_deactivated_audience_gets_no_code"],
        "tools": ["there_is_no_code_for_whoever_cannot_check_it"],
    },
    "Refused questions, malformed": {
        "tools_in_agents": ["questions_about_names_are_bounded"],
        "questions": ["each_asker_and_action_is_counted_by_itself"],
    },
    "After that, this agent has": {
        "tools_in_agents": ["questions_about_names_are_bounded"],
        "questions": ["each_asker_and_action_is_counted_by_itself"],
    },
    "A code that has the": {"tools_in_agents": ["questions_about_names_are_bounded"]},
    "A child proves that it holds": {
        "spawn": ["an_impostor_of_the_same_name_is_refused", "another_identitys_proof_is_refused"],
        "proof": [
            "a_proof_of_something_else_is_refused",
            "a_proof_of_another_challenge_is_refused",
        ],
    },
    "The proof is an untruncated OCRA": {
        "spawn": ["an_impostor_of_the_same_name_is_refused", "another_identitys_proof_is_refused"],
        "proof": [
            "a_proof_of_something_else_is_refused",
            "a_proof_of_another_challenge_is_refused",
        ],
    },
    "The parent verifies these bytes,": {
        "spawn": ["proven_bytes_that_are_no_payload_are_refused"],
        "payload": ["what_is_not_strict_json_is_refused"],
    },
    "Everything else that a child": {
        "spawn": ["a_meddled_answer_is_refused_without_a_trace", "a_child_that_exits_is_refused"]
    },
    "An exception of a child is recognized": {
        "spawn": ["a_meddled_answer_is_refused_without_a_trace", "a_child_that_exits_is_refused"]
    },
    "A result is used for a task only": {
        "spawn_turns": ["answers_that_are_written_into_the_nodes_state_are_compared"]
    },
    "If a node, a tool": {
        "spawn_calls": [
            "a_call_that_is_left_out_on_resume",
            "calls_in_another_order_on_resume",
            "another_plan_after_a_crash",
        ],
        "spawn_programs": ["each_task_has_its_own_answer_in_any_program"],
    },
    "If no spawn matches, it": {
        "spawn_calls": [
            "a_call_that_is_left_out_on_resume",
            "calls_in_another_order_on_resume",
            "another_plan_after_a_crash",
        ],
        "spawn_programs": ["each_task_has_its_own_answer_in_any_program"],
    },
    "A resume value answers only a": {
        "spawn_calls": ["an_answer_is_to_the_question_that_was_shown"]
    },
    "Two spawns in one node are distinguished": {
        "spawn_names": [
            "a_spawn_that_is_left_out_on_resume_lends_its_record_to_no_other",
            "what_only_the_order_of_calls_tells_apart_is_refused",
        ],
        "found_children": ["functions_of_two_tenants_share_no_record"],
    },
    "If a local child raises `SystemExit`": {
        "contained_exits": [
            "what_ends_a_process_ends_a_child",
            "a_persons_ctrl_c_ends_the_run_on_the_event_loop",
            "a_persons_ctrl_c_ends_the_run_on_the_main_thread",
        ]
    },
    "A person's Ctrl-C ends the run.": {
        "contained_exits": [
            "what_ends_a_process_ends_a_child",
            "a_persons_ctrl_c_ends_the_run_on_the_event_loop",
            "a_persons_ctrl_c_ends_the_run_on_the_main_thread",
        ]
    },
    "The status `verified` proves": {
        "accepted_messages": ["no_message_of_a_child_steers_its_parent"],
        "values": ["a_class_is_never_found_by_its_name"],
    },
    "It doesn't mean that the answer": {
        "accepted_messages": ["no_message_of_a_child_steers_its_parent"],
        "values": ["a_class_is_never_found_by_its_name"],
    },
    "Of an answer's messages, the": {
        "accepted_messages": ["no_message_of_a_child_steers_its_parent"],
        "values": ["a_class_is_never_found_by_its_name"],
    },
    "It removes their tool calls": {
        "accepted_messages": ["no_message_of_a_child_steers_its_parent"],
        "values": ["a_class_is_never_found_by_its_name"],
    },
    "No class is loaded by a name": {
        "accepted_messages": ["no_message_of_a_child_steers_its_parent"],
        "values": ["a_class_is_never_found_by_its_name"],
    },
    "A local child's interrupt is": {
        "interrupts": [
            "a_question_is_answered_by_its_id_and_by_value",
            "a_response_schema_stays_and_says_who_asks",
        ]
    },
    "`verified_agent` adds one message": {
        "verified_agent": ["a_child_forges_nothing", "an_echo_is_no_answer"]
    },
    "The text is the child's,": {
        "verified_agent": ["a_child_forges_nothing", "an_echo_is_no_answer"]
    },
    "Without a proven answer it raises": {
        "verified_agent": ["a_failure_ends_the_run_by_default", "a_collected_failure_is_no_answer"]
    },
    "Only the messages that a child": {"answer_content": ["words_of_another_agent_are_no_answer"]},
    "A child has ten seconds, or the": {
        "possession": ["a_child_that_hangs_is_given_up", "it_holds_no_thread_of_anybodys"]
    },
    "A child that hangs during": {
        "possession": ["a_child_that_hangs_is_given_up", "it_holds_no_thread_of_anybodys"]
    },
    "If a function finds the children": {
        "dynamic_children": ["a_name_without_a_child_is_refused_in_the_same_words"]
    },
    "The returned child is validated": {
        "dynamic_children": [
            "a_child_that_doesnt_fit_is_refused_and_never_run",
            "a_child_that_is_gone_on_resume_is_refused",
            "a_deactivated_child_is_refused_on_resume",
        ],
        "created_agents": [
            "one_that_is_deactivated_while_it_is_built_gets_no_task",
            "a_child_that_lies_is_refused",
        ],
    },
    "`created_agents` admits the active": {
        "created_agents": [
            "exactly_the_living_agents_of_a_family_are_admitted",
            "an_agent_of_the_family_cant_spawn_upwards",
            "a_branch_ends_with_the_agent_above_it",
            "one_that_was_deactivated_meanwhile_is_refused",
        ]
    },
    "It admits no agent of another": {
        "created_agents": [
            "exactly_the_living_agents_of_a_family_are_admitted",
            "an_agent_of_the_family_cant_spawn_upwards",
            "a_branch_ends_with_the_agent_above_it",
            "one_that_was_deactivated_meanwhile_is_refused",
        ]
    },
    "If a name isn't admitted,": {
        "created_agents": [
            "the_function_alone_refuses_in_the_same_words",
            "the_audit_has_the_reasons",
        ],
        "found_children": ["all_spawns_of_a_lead_have_one_limit_in_the_audit"],
    },
    "The function has the spawn's": {
        "found_children": [
            "a_function_that_hangs_has_its_task_refused",
            "a_function_that_hangs_holds_no_thread_of_the_loop",
            "a_built_graph_that_cant_be_a_child_is_refused",
        ]
    },
    "If it hangs, or returns": {
        "found_children": [
            "a_function_that_hangs_has_its_task_refused",
            "a_function_that_hangs_holds_no_thread_of_the_loop",
            "a_built_graph_that_cant_be_a_child_is_refused",
        ]
    },
    "If a run was stopped,": {
        "found_children": ["an_answer_isnt_used_when_its_agent_is_gone_before_the_join"]
    },
    "`SpawnAndAwait` and `verified_agent`": {
        "spawn_answers": ["an_image_and_a_file_stay_blocks"],
        "answer_content": ["an_image_is_one_with_the_bytes_of_its_type", "attachments_are_limited"],
    },
    "They pass on texts.": {
        "spawn_answers": ["an_image_and_a_file_stay_blocks"],
        "answer_content": ["an_image_is_one_with_the_bytes_of_its_type", "attachments_are_limited"],
    },
    "They pass on images and": {
        "spawn_answers": ["an_image_and_a_file_stay_blocks"],
        "answer_content": ["an_image_is_one_with_the_bytes_of_its_type", "attachments_are_limited"],
    },
    "The limits are 20 attachments": {
        "spawn_answers": ["an_image_and_a_file_stay_blocks"],
        "answer_content": ["an_image_is_one_with_the_bytes_of_its_type", "attachments_are_limited"],
    },
    "No link or file id is passed": {
        "spawn_answers": ["nothing_is_attached_that_breaks_or_fetches"],
        "answer_content": ["a_link_is_text_and_nothing_else"],
    },
    "A link is passed on": {
        "spawn_answers": ["nothing_is_attached_that_breaks_or_fetches"],
        "answer_content": ["a_link_is_text_and_nothing_else"],
    },
    "No other key or block of a child's": {
        "answer_content": ["nothing_that_a_provider_refuses_gets_into_a_conversation"]
    },
    "An image can still be broken": {"answer_content": ["an_answer_of_an_agent_always_has_text"]},
    "`SpawnAndAwait` returns JSON,": {
        "spawn_answers": ["a_childs_text_cant_pose_as_another_answer"]
    },
    "A purpose that another model": {
        "spawn_inputs": ["a_purpose_cant_pose_as_the_tools_own_words"]
    },
    "Through `SpawnAndAwait`, a lead's model": {
        "spawn_inputs": ["a_model_sends_only_what_the_schema_shows", "a_model_writes_no_messages"]
    },
    "Everything else is refused before": {
        "spawn_inputs": ["nothing_runs_before_all_tasks_are_right", "what_isnt_taken_is_said"]
    },
    "A challenge can be used once,": {
        "hostile_items": [
            "a_challenge_is_not_changed_copied_or_inherited",
            "a_challenge_from_before_a_fork_is_its_makers",
        ]
    },
    "It can't be copied, pickled or": {
        "hostile_items": [
            "a_challenge_is_not_changed_copied_or_inherited",
            "a_challenge_from_before_a_fork_is_its_makers",
        ]
    },
    "If proofs are verified together,": {
        "hostile_items": ["an_odd_item_fails_alone", "every_row_can_be_stored"]
    },
    "A proof may be made in a signal": {
        "reentrancy": ["signals_stop_nothing", "finalizers_stop_nothing"]
    },
    "An operation that writes (verifying": {
        "reentrancy": ["what_writes_within_a_transaction_is_refused"]
    },
    "The parent trusts only the": {
        "remote": [
            "a_meddled_answer_is_refused",
            "an_address_that_would_leak_is_refused",
            "the_environments_proxy_is_not_shown_the_key",
        ]
    },
    "It doesn't read streams, commands,": {
        "remote": [
            "a_meddled_answer_is_refused",
            "an_address_that_would_leak_is_refused",
            "the_environments_proxy_is_not_shown_the_key",
        ]
    },
    "It limits the size of an answer,": {
        "remote": [
            "a_meddled_answer_is_refused",
            "an_address_that_would_leak_is_refused",
            "the_environments_proxy_is_not_shown_the_key",
        ]
    },
    "The challenge is new in each": {"remote": ["a_recorded_answer_is_refused"]},
    "The child works only for parents": {
        "remote": [
            "a_caller_that_is_not_accepted_gets_no_work",
            "a_replayed_request_is_not_worked_on_again",
        ]
    },
    "The parent's proof covers the": {
        "remote": [
            "a_caller_that_is_not_accepted_gets_no_work",
            "a_replayed_request_is_not_worked_on_again",
        ]
    },
    "The relation must be that": {
        "remote": [
            "a_caller_that_is_not_accepted_gets_no_work",
            "a_replayed_request_is_not_worked_on_again",
        ]
    },
    "The child spends each request": {
        "remote": [
            "a_caller_that_is_not_accepted_gets_no_work",
            "a_replayed_request_is_not_worked_on_again",
        ]
    },
    "Its state can't be written from": {
        "remote": [
            "nobody_writes_a_childs_state",
            "what_a_proxy_adds_to_the_configuration_changes_nothing",
        ]
    },
    "Two databases share one secret": {
        "peering": [
            "one_domain_cannot_play_the_agent_to_another",
            "a_secret_is_good_for_one_direction",
        ]
    },
    "Anyone who has it can't": {
        "peering": [
            "one_domain_cannot_play_the_agent_to_another",
            "a_secret_is_good_for_one_direction",
        ]
    },
    "An enrolled peer can be verified,": {
        "peering": [
            "one_domain_cannot_play_the_agent_to_another",
            "a_secret_is_good_for_one_direction",
        ]
    },
    "A LangGraph Server with `pipelit_agents.server:auth`": {
        "server": ["every_path_but_the_health_check_asks_for_a_key"]
    },
    "A missing, wrong, truncated, expired": {
        "server": ["every_other_key_is_refused_in_the_same_words"]
    },
    "If a source keeps failing,": {
        "server": [
            "a_source_that_keeps_failing_waits_longer",
            "a_valid_key_doesnt_wait_behind_refusals",
            "failures_lock_nobody_out",
        ]
    },
    "No account is locked.": {"server": ["failures_lock_nobody_out"]},
    "Threads, runs, assistants, crons": {
        "server": [
            "what_another_made_is_not_there",
            "a_store_has_a_room_for_each",
            "a_search_finds_ones_own",
        ]
    },
    "For each source, 100 wrong": {
        "refusals": [
            "above_its_budget_a_source_is_refused_unseen",
            "many_sources_have_a_budget_together",
        ]
    },
    "For all sources together, 400": {
        "refusals": [
            "above_its_budget_a_source_is_refused_unseen",
            "many_sources_have_a_budget_together",
        ]
    },
    "Requests above this limit get": {"refusals": ["unseen_means_that_the_database_isnt_asked"]},
    "A source is an IPv4 address,": {"refusals": ["what_counts_as_one_source"]},
    "A valid key is never refused": {"refusals": ["a_valid_key_gets_in_from_a_flooding_address"]},
    "The server reads the list": {"refusals": ["a_valid_key_gets_in_from_a_flooding_address"]},
    "A key that was issued less than": {
        "refusals": ["a_key_made_during_a_flood_gets_in_when_retry_after_says"]
    },
    "`Retry-After` says when it is": {
        "refusals": ["a_key_made_during_a_flood_gets_in_when_retry_after_says"]
    },
    "Secrets are encrypted with Fernet": {
        "keyring": ["another_purpose_does_not_open"],
        "stolen_database": [
            "no_byte_of_the_files_is_a_secret",
            "a_credential_whose_fields_were_changed_does_not_open",
        ],
    },
    "Each is bound to its purpose,": {
        "keyring": ["another_purpose_does_not_open"],
        "stolen_database": [
            "no_byte_of_the_files_is_a_secret",
            "a_credential_whose_fields_were_changed_does_not_open",
        ],
    },
    "Without the right key, or if": {
        "stolen_database": [
            "under_a_wrong_key_nothing_opens",
            "without_a_key_nothing_opens_and_nothing_is_stored",
        ],
        "rotation": ["nothing_is_sealed_under_another_databases_key"],
    },
    "One row of the database names": {
        "key_row": [
            "whatever_is_sealed_first_names_the_key",
            "a_row_reveals_nothing_and_cant_be_made",
        ]
    },
    "Before anything is encrypted": {
        "key_row": [
            "whatever_is_sealed_first_names_the_key",
            "an_applications_column_in_this_database",
            "one_of_two_first_writers_is_admitted",
        ],
        "rotation": ["nothing_is_sealed_under_another_databases_key"],
    },
    "This covers values, approvals,": {
        "key_row": [
            "whatever_is_sealed_first_names_the_key",
            "an_applications_column_in_this_database",
            "one_of_two_first_writers_is_admitted",
        ],
        "rotation": ["nothing_is_sealed_under_another_databases_key"],
    },
    "A process that still has a replaced": {
        "key_row": [
            "after_rotate_a_replaced_key_writes_nothing",
            "a_rotation_waits_for_a_paused_writer",
            "a_planted_value_admits_no_replaced_key",
        ]
    },
    "For a checkpoint, the keys are": {
        "key_row": ["checkpoints_are_written_under_the_databases_key_alone"]
    },
    "Damaged values don't stop encryption.": {
        "key_row": [
            "damaged_values_lock_nobody_out",
            "a_row_that_was_changed_stops_writers_and_is_named",
        ]
    },
    "If the row itself is": {
        "key_row": [
            "damaged_values_lock_nobody_out",
            "a_row_that_was_changed_stops_writers_and_is_named",
        ]
    },
    "If a column has its": {"key_row": ["declared_keys_may_be_others_but_no_replaced_ones"]},
    "Credentials are available to": {"credentials": ["a_credential_is_for_all_unless_kept"]},
    "`created_by` only records who stored": {
        "credentials": ["a_credential_is_for_all_unless_kept"]
    },
    "`allow=[…]` restricts a credential": {
        "credentials": ["a_kept_credential_opens_for_named_accounts_only"]
    },
    "A spawn can limit which": {
        "child_credentials": [
            "a_child_opens_what_spawn_and_task_both_name",
            "a_mistaken_ceiling_is_an_error_when_the_graph_is_built",
            "a_model_cannot_name_credentials",
        ]
    },
    "The limit applies in the": {
        "child_credentials": [
            "a_grandchild_opens_no_more_than_its_parent",
            "a_resumed_child_has_its_limit_again",
            "a_retried_child_has_its_limit_again",
            "threads_and_tasks_of_a_child_have_its_limit",
        ]
    },
    "A person's own credentials (`put(…,": {
        "per_person": [
            "each_persons_run_opens_the_persons_own",
            "nobody_is_nobody",
            "a_servers_user_is_the_person",
            "a_spawned_child_acts_for_its_parents_person",
        ]
    },
    "The person can't be chosen": {
        "per_person": ["no_lie_chooses_a_person", "a_model_chooses_nobody"],
        "server": ["each_run_uses_its_own_persons_key"],
    },
    "The transaction of each opening": {
        "per_person": [
            "a_deactivated_person_opens_nothing",
            "only_a_person_can_be_vouched_for",
            "a_peer_is_no_person",
        ]
    },
    "So a deactivated person, an agent,": {
        "per_person": [
            "a_deactivated_person_opens_nothing",
            "only_a_person_can_be_vouched_for",
            "a_peer_is_no_person",
        ]
    },
    "After an `acting_for` block has": {
        "per_person": [
            "a_block_that_has_ended_acts_for_nobody_in_its_threads",
            "a_block_that_has_ended_acts_for_nobody_in_its_tasks",
        ],
        "acting": ["a_copy_of_an_ended_block_is_no_person"],
    },
    "A process that was forked in": {"acting": ["a_forked_process_acts_for_nobody"]},
    "A ciphertext is bound to person": {"per_person": ["a_ciphertext_elsewhere_does_not_open"]},
    "If it is copied to another person,": {"per_person": ["a_ciphertext_elsewhere_does_not_open"]},
    "The audit's column `person` names": {
        "per_person": ["each_persons_run_opens_the_persons_own", "the_seals_cover_the_person"]
    },
    "`inject` opens a credential for": {
        "secret_scope": [
            "the_four_kinds_of_nodes",
            "a_thread_that_outlives_its_node_cannot_read",
            "a_closed_secret_has_no_plaintext",
        ]
    },
    "When the call has ended, the": {
        "secret_scope": [
            "the_four_kinds_of_nodes",
            "a_thread_that_outlives_its_node_cannot_read",
            "a_closed_secret_has_no_plaintext",
        ]
    },
    "A `Secret` can't be copied, pickled": {
        "secret_scope": [
            "refuses_to_be_carried_off",
            "langgraph_serializer_refuses",
            "prints_as_a_mask",
            "no_text_gets_the_mask_instead_of_the_secret",
        ]
    },
    "It can't be put into": {
        "secret_scope": [
            "refuses_to_be_carried_off",
            "langgraph_serializer_refuses",
            "prints_as_a_mask",
            "no_text_gets_the_mask_instead_of_the_secret",
        ]
    },
    "If it is printed or logged, it": {
        "secret_scope": [
            "refuses_to_be_carried_off",
            "langgraph_serializer_refuses",
            "prints_as_a_mask",
            "no_text_gets_the_mask_instead_of_the_secret",
        ]
    },
    "While the secret is open,": {"canary": ["no_mistake_leaves_the_key_anywhere"]},
    "return value, `yield`, `Command`,": {
        "boundary": [
            "state_that_holds_a_key_is_refused",
            "commands_and_sends_are_searched",
            "every_kind_of_function_is_guarded",
        ],
        "ways_out": [
            "state_that_was_changed_in_place_is_refused_and_cleaned",
            "a_models_request_is_searched_after_the_call",
        ],
    },
    "`interrupt()`, stream writer,": {
        "doors": [
            "what_a_tool_streams_is_guarded",
            "what_a_node_pushes_to_the_messages_is_guarded",
            "the_reason_to_stop_a_run_is_searched",
            "langgraph_has_no_writers_but_those_that_are_guarded",
        ],
        "canary": ["no_mistake_leaves_the_key_anywhere"],
        "ways_out": ["a_store_is_searched_when_it_is_called"],
    },
    "input, results, streams and events": {
        "doors": [
            "what_a_run_tells_besides_is_searched",
            "an_error_that_is_tried_again_loses_the_key",
            "a_key_in_several_tokens_is_refused",
            "an_inner_scope_guards_for_the_outer_one_too",
        ],
        "canary": ["no_mistake_leaves_the_key_anywhere"],
        "ways_out": ["a_middleware_hands_no_key_to_a_tool"],
    },
    "pieces of a stream (tokens as": {
        "streams": [
            "no_consumer_gets_a_key_in_pieces",
            "what_is_no_key_comes_whole_and_in_order",
            "a_key_that_is_written_in_pieces_is_refused",
            "chunks_of_a_runnable_are_held_back",
            "pieces_of_any_size_are_found",
            "a_key_is_found_however_the_pieces_are_put_together",
            "what_is_no_key_is_not_delayed_in_any_form",
            "a_refused_write_hands_on_nothing_that_was_held_back",
            "the_order_of_events_does_not_tell_whether_a_guess_is_right",
            "nothing_is_kept_back_that_could_be_guessed",
            "half_of_a_short_secret_is_kept_back",
            "a_handler_of_any_class_is_held_back",
            "events_of_a_node_are_held_back",
        ]
    },
    "environment, the run's context": {
        "surroundings": [
            "a_key_in_the_environment_is_refused_and_removed",
            "a_key_that_was_in_the_environment_before_is_no_leak",
            "a_key_in_the_runs_context_is_refused",
            "a_key_in_the_configuration_goes_nowhere",
            "a_key_in_a_context_variable_is_refused",
            "threads_and_tasks_are_not_named_after_a_key",
            "a_span_that_goes_on_after_the_node_has_no_key",
            "langsmiths_run_of_the_node_has_no_key",
        ]
    },
    "`update_state` inside the node,": {
        "surroundings": ["state_updated_inside_a_node_is_refused_by_a_sealed_saver"]
    },
    "an exception: text, arguments,": {
        "redact": [
            "an_exception_keeps_its_type_and_loses_the_key",
            "what_can_not_be_mended_is_replaced",
            "many_objects_in_a_frame_hide_no_key",
            "slow_variables_hide_no_key",
            "a_frame_that_cannot_be_cleared_is_left_out",
        ]
    },
    "logs, with `RedactingFilter`": {
        "redaction": ["no_record_shows_an_open_secret", "langsmith_is_sent_no_open_secret"],
        "logging_page": [
            "handlers_that_show_variables_show_no_key",
            "the_recipes_for_structlog",
            "the_recipe_for_loguru",
            "the_recipe_for_sentry",
            "the_recipe_for_opentelemetry",
        ],
    },
    "The search finds the secret": {
        "patterns": ["a_secret_is_found_as_it_is_used"],
        "boundary": ["a_secret_is_found_wherever_it_hides"],
        "ways_out": ["every_carrier_is_searched"],
    },
    "It also finds JSON in a URL,": {
        "patterns": ["a_secret_is_found_as_it_is_used"],
        "boundary": ["a_secret_is_found_wherever_it_hides"],
        "ways_out": ["every_carrier_is_searched"],
    },
    "It searches containers, objects,": {
        "patterns": ["a_secret_is_found_as_it_is_used"],
        "boundary": ["a_secret_is_found_wherever_it_hides"],
        "ways_out": ["every_carrier_is_searched"],
    },
    "A secret may itself be an encoding": {
        "parts": [
            "a_secret_is_found_decoded_and_rewritten",
            "a_private_key_is_found_in_every_format",
        ]
    },
    "The encoded bytes are then searched": {
        "parts": [
            "a_secret_is_found_decoded_and_rewritten",
            "a_private_key_is_found_in_every_format",
        ]
    },
    "Hexadecimal, base32 and UUIDs": {
        "parts": [
            "a_secret_is_found_decoded_and_rewritten",
            "a_private_key_is_found_in_every_format",
        ]
    },
    "A private key is found in each": {
        "parts": [
            "a_secret_is_found_decoded_and_rewritten",
            "a_private_key_is_found_in_every_format",
        ]
    },
    "For a value of any other type,": {"written_forms": ["every_form_is_searched"]},
    "Bound methods, partials, generators": {"written_forms": ["every_form_is_searched"]},
    "The code of such values,": {"written_forms": ["what_hangs_is_left_behind"]},
    "If the code takes longer": {"written_forms": ["what_hangs_is_left_behind"]},
    "So an object in the state whose": {
        "written_forms": [
            "a_type_that_hangs_is_waited_for_once",
            "slow_values_use_up_only_the_time_of_their_type",
        ]
    },
    "Several slow objects of one type": {
        "written_forms": [
            "a_type_that_hangs_is_waited_for_once",
            "slow_values_use_up_only_the_time_of_their_type",
        ]
    },
    "For the next five minutes, values": {
        "written_forms": [
            "a_type_that_hangs_is_waited_for_once",
            "slow_values_use_up_only_the_time_of_their_type",
        ]
    },
    "In one search, the code of all": {
        "written_forms": [
            "what_nobody_had_time_for_is_refused",
            "values_that_no_thread_can_read_are_refused",
            "what_was_unsearchable_in_the_input_is_searched_for_what_the_node_adds",
        ]
    },
    "A value whose code couldn't": {
        "written_forms": [
            "what_nobody_had_time_for_is_refused",
            "values_that_no_thread_can_read_are_refused",
            "what_was_unsearchable_in_the_input_is_searched_for_what_the_node_adds",
        ]
    },
    "Only text that the node": {
        "given_to_nodes": [
            "what_was_given_may_be_given_back",
            "the_secret_itself_is_no_copy",
            "what_the_node_writes_into_the_state_was_not_given",
        ]
    },
    "A text that was in its input": {
        "given_to_nodes": [
            "what_was_given_may_be_given_back",
            "answers_and_stored_values_may_be_given_back",
            "tools_may_give_back_what_they_were_given",
        ]
    },
    "Such a text may also be in": {
        "given_to_nodes": [
            "what_was_given_may_be_given_back",
            "answers_and_stored_values_may_be_given_back",
            "tools_may_give_back_what_they_were_given",
        ]
    },
    "A node's input is the state,": {
        "given_to_nodes": [
            "what_was_given_may_be_given_back",
            "answers_and_stored_values_may_be_given_back",
            "tools_may_give_back_what_they_were_given",
        ]
    },
    "So somebody who writes guesses": {
        "given_to_nodes": [
            "sixty_thousand_guesses_tell_nothing",
            "what_is_known_is_one_part_of_a_secret",
        ]
    },
    "A word of a secret": {
        "given_to_nodes": [
            "sixty_thousand_guesses_tell_nothing",
            "what_is_known_is_one_part_of_a_secret",
        ]
    },
    "`make canary` tries 91 ordinary": {
        "canary": ["no_mistake_leaves_the_key_anywhere", "the_pages_say_how_many_there_are"]
    },
    "It prints which of them": {
        "canary": ["no_mistake_leaves_the_key_anywhere", "the_pages_say_how_many_there_are"]
    },
    "If a credential is a": {"parts": ["the_secrets_in_a_document_are_found"]},
    "These are the passwords and": {"parts": ["the_secrets_in_a_document_are_found"]},
    "The words of a field's name": {
        "parts": ["names_are_read_as_words", "ordinary_values_are_no_secrets"],
        "honest": [
            "an_honest_node_with_a_secret_is_not_refused",
            "an_honest_node_with_all_secrets_is_not_refused",
        ],
    },
    "If the name doesn't decide,": {
        "parts": ["names_are_read_as_words", "ordinary_values_are_no_secrets"],
        "honest": [
            "an_honest_node_with_a_secret_is_not_refused",
            "an_honest_node_with_all_secrets_is_not_refused",
        ],
    },
    "`credentials.put` and `credentials.get`,": {
        "parts": [
            "put_says_which_parts_are_searched_for",
            "put_says_it_of_each_field",
            "put_warns_of_a_common_part",
            "no_name_shows_a_value",
        ],
        "cli": ["put_and_show_name_the_parts_that_are_searched_for"],
    },
    "`put` warns about parts that": {
        "parts": [
            "put_says_which_parts_are_searched_for",
            "put_says_it_of_each_field",
            "put_warns_of_a_common_part",
            "no_name_shows_a_value",
        ],
        "cli": ["put_and_show_name_the_parts_that_are_searched_for"],
    },
    "`credentials.tool` makes a tool": {
        "ways_out": ["a_tool_of_ours_refuses_what_the_model_makes_up"],
        "middleware": ["a_tool_gets_its_own_key", "a_model_that_sends_the_parameter_is_refused"],
    },
    "If a model sends a value for": {
        "ways_out": ["a_tool_of_ours_refuses_what_the_model_makes_up"],
        "middleware": ["a_tool_gets_its_own_key", "a_model_that_sends_the_parameter_is_refused"],
    },
    "Its `model` opens the key by": {
        "keyless_model": [
            "what_calls_a_model_by_itself_gets_the_key",
            "outside_of_a_node_it_is_refused",
            "a_stream_that_outlives_its_node_is_refused",
        ]
    },
    "Elsewhere, it raises an error.": {
        "keyless_model": [
            "what_calls_a_model_by_itself_gets_the_key",
            "outside_of_a_node_it_is_refused",
            "a_stream_that_outlives_its_node_is_refused",
        ]
    },
    "`credentials.http_auth` fills": {
        "http_auth": [
            "the_header_is_filled_for_the_request_only",
            "another_server_gets_nothing",
            "a_redirect_elsewhere_takes_no_header_along",
            "origins_are_compared_as_browsers_do",
            "arguments_are_checked_when_it_is_made",
        ]
    },
    "It does so only for the servers": {
        "http_auth": [
            "the_header_is_filled_for_the_request_only",
            "another_server_gets_nothing",
            "a_redirect_elsewhere_takes_no_header_along",
            "origins_are_compared_as_browsers_do",
            "arguments_are_checked_when_it_is_made",
        ]
    },
    "The same applies after a": {
        "http_auth": [
            "the_header_is_filled_for_the_request_only",
            "another_server_gets_nothing",
            "a_redirect_elsewhere_takes_no_header_along",
            "origins_are_compared_as_browsers_do",
            "arguments_are_checked_when_it_is_made",
        ]
    },
    "Afterwards, the request shows": {
        "http_auth": [
            "a_redirect_on_the_same_server_works",
            "a_request_that_fails_keeps_nothing",
            "an_error_after_a_redirect_or_at_a_proxy_keeps_nothing",
        ]
    },
    "If a proxy from the environment": {
        "http_auth": ["an_error_after_a_redirect_or_at_a_proxy_keeps_nothing"]
    },
    "The check of redirects needs": {"http_auth": ["a_redirect_elsewhere_takes_no_header_along"]},
    "With other transports, httpx's own": {
        "http_auth": ["a_redirect_elsewhere_takes_no_header_along"]
    },
    "`credentials.test` uses `http_auth`": {
        "trial": [
            "a_redirect_takes_the_key_nowhere",
            "another_server_than_the_credentials_gets_nothing",
            "a_certificate_that_nobody_signed_stops_the_key",
            "each_answer_has_an_outcome_and_a_reason",
            "a_model_without_an_address_is_tested_at_its_provider",
        ]
    },
    "It asks the credential's own": {
        "trial": [
            "a_redirect_takes_the_key_nowhere",
            "another_server_than_the_credentials_gets_nothing",
            "a_certificate_that_nobody_signed_stops_the_key",
            "each_answer_has_an_outcome_and_a_reason",
            "a_model_without_an_address_is_tested_at_its_provider",
        ]
    },
    "It uses only the status of the": {"trial": ["each_answer_has_an_outcome_and_a_reason"]},
    "The body isn't read, and the": {
        "trial": [
            "what_a_server_repeats_is_neither_shown_nor_logged",
            "each_answer_has_an_outcome_and_a_reason",
        ]
    },
    "Options of a database's connection": {
        "trial": ["a_database_is_asked_with_no_file_of_this_machine"]
    },
    "With `public_only`, which the": {
        "trial": [
            "a_test_of_public_servers_doesnt_reach_this_machine_by_its_public_address",
            "which_addresses_are_public",
            "a_test_of_public_servers_connects_to_no_other",
        ],
        "desk_credentials": ["a_members_test_reaches_nothing_inside"],
    },
    "It doesn't connect to this machine,": {
        "trial": [
            "a_test_of_public_servers_doesnt_reach_this_machine_by_its_public_address",
            "which_addresses_are_public",
            "a_test_of_public_servers_connects_to_no_other",
        ],
        "desk_credentials": ["a_members_test_reaches_nothing_inside"],
    },
    "The result doesn't say whether": {
        "trial": ["a_test_of_public_servers_connects_to_no_other"],
        "desk_credentials": ["a_members_test_reaches_nothing_inside"],
    },
    "The seed of another service's": {
        "issued_codes": ["no_reference_opens_the_seed", "no_frame_of_an_error_shows_the_seed"],
        "canary": ["no_mistake_leaves_the_key_anywhere"],
    },
    "Each of these codes is": {
        "races": ["no_code_of_another_service_is_handed_out_twice"],
        "issued_codes": [
            "each_code_is_handed_out_once",
            "a_clock_that_goes_back_repeats_no_code",
            "a_rotation_repeats_no_code",
            "one_seed_has_one_row_of_steps",
        ],
    },
    "This is also true after": {
        "races": ["no_code_of_another_service_is_handed_out_twice"],
        "issued_codes": [
            "each_code_is_handed_out_once",
            "a_clock_that_goes_back_repeats_no_code",
            "a_rotation_repeats_no_code",
            "one_seed_has_one_row_of_steps",
        ],
    },
    "The table of these codes contains": {"issued_codes": ["the_table_tells_nothing_of_a_seed"]},
    "The audit records each opening": {
        "middleware": ["each_opening_is_on_record"],
        "keyless_model": ["what_calls_a_model_by_itself_gets_the_key"],
        "ways_out": ["every_refusal_is_on_record"],
    },
    "Errors of functions that take": {
        "discretion": [
            "a_put_with_a_bad_argument_shows_no_secret",
            "a_put_that_cannot_seal_shows_no_secret",
            "accounts_and_factors_show_no_secret",
            "each_public_method_that_takes_a_secret_is_discreet",
            "keys_are_in_no_frame",
            "a_credential_that_is_not_allowed_is_in_no_frame",
            "pure_functions_show_no_secret",
            "commands_show_no_secret",
        ]
    },
    "This covers each public method": {
        "discretion": [
            "a_put_with_a_bad_argument_shows_no_secret",
            "a_put_that_cannot_seal_shows_no_secret",
            "accounts_and_factors_show_no_secret",
            "each_public_method_that_takes_a_secret_is_discreet",
            "keys_are_in_no_frame",
            "a_credential_that_is_not_allowed_is_in_no_frame",
            "pure_functions_show_no_secret",
            "commands_show_no_secret",
        ]
    },
    "So error trackers that send local": {
        "discretion": [
            "a_put_with_a_bad_argument_shows_no_secret",
            "a_put_that_cannot_seal_shows_no_secret",
            "accounts_and_factors_show_no_secret",
            "each_public_method_that_takes_a_secret_is_discreet",
            "keys_are_in_no_frame",
            "a_credential_that_is_not_allowed_is_in_no_frame",
            "pure_functions_show_no_secret",
            "commands_show_no_secret",
        ]
    },
    "The variables of your own code": {"discretion": ["the_callers_own_frames_stay"]},
    "If a secret is passed": {
        "secrets_as_names": [
            "a_secret_as_a_name_is_not_repeated",
            "a_secret_as_the_name_of_a_credential_is_refused_when_it_is_declared",
            "what_a_node_raises_does_not_repeat_it",
            "swapped_arguments_leave_no_code_behind",
            "an_ordinary_wrong_name_is_repeated",
        ]
    },
    "Unknown names are repeated and": {
        "secrets_as_names": [
            "a_secret_as_a_name_is_not_repeated",
            "a_secret_as_the_name_of_a_credential_is_refused_when_it_is_declared",
            "what_a_node_raises_does_not_repeat_it",
            "swapped_arguments_leave_no_code_behind",
            "an_ordinary_wrong_name_is_repeated",
        ]
    },
    "A text that has the form of a": {
        "secrets_as_names": [
            "a_secret_as_a_name_is_not_repeated",
            "a_secret_in_public_is_refused",
            "ordinary_public_fields_are_stored",
        ]
    },
    "`pipelit.sealed_saver(saver)`": {
        "checkpoints": ["a_sealed_saver_writes_nothing_in_clear"],
        "checkpoints_forged": ["a_checkpoint_belongs_to_its_place", "a_write_belongs_to_its_place"],
    },
    "It binds each to its thread,": {
        "checkpoints": ["a_sealed_saver_writes_nothing_in_clear"],
        "checkpoints_forged": ["a_checkpoint_belongs_to_its_place", "a_write_belongs_to_its_place"],
    },
    "A write is also bound to its": {
        "checkpoints": ["a_sealed_saver_writes_nothing_in_clear"],
        "checkpoints_forged": ["a_checkpoint_belongs_to_its_place", "a_write_belongs_to_its_place"],
    },
    "Ids (of threads, checkpoints,": {
        "checkpoints": ["a_sealed_saver_writes_nothing_in_clear"],
        "filters": ["only_what_is_named_is_in_clear"],
    },
    "They are compared with an encrypted": {
        "checkpoints_forged": [
            "a_node_is_not_skipped_by_changed_versions",
            "each_field_of_a_checkpoint_is_authenticated",
            "an_approval_is_not_replayed",
            "the_order_of_writes_is_read_from_the_seal",
            "a_write_is_not_applied_twice",
        ]
    },
    "A task's writes are refused if": {
        "missing_writes": [
            "no_node_is_skipped_by_deleting_a_write",
            "a_task_that_failed_does_not_look_done",
            "the_rows_of_a_call_are_there_together",
        ]
    },
    "The `filter` of `list` is": {
        "filters": [
            "it_lists_what_a_saver_with_everything_in_clear_lists",
            "a_copy_in_clear_that_is_missing_lists_nothing_that_differs",
        ]
    },
    "If the unencrypted copy of": {
        "filters": [
            "a_checkpoint_whose_metadata_was_changed_is_refused",
            "sealed_metadata_of_another_checkpoint_is_refused",
        ]
    },
    "`copy_thread` verifies all of": {
        "copied_threads": [
            "of_a_forged_thread_nothing_is_copied",
            "a_copy_shares_no_ciphertext_with_its_source",
            "a_thread_is_copied_to_a_new_one_only",
        ]
    },
    "At the end it reads the copy": {
        "copied_threads": [
            "planted_writes_are_no_part_of_the_copy",
            "two_copies_at_once_are_not_mixed",
        ]
    },
    "If a copy fails, its part is": {
        "copied_threads": [
            "a_copy_that_fails_leaves_nothing",
            "a_copy_that_fails_leaves_what_others_wrote",
        ]
    },
    "Unencrypted rows are refused, even": {
        "checkpoints": ["rows_in_clear_are_refused", "strict_msgpack_stays_strict_and_sealed"]
    },
    "A serializer alone (`pipelit.checkpoint_serializer()`)": {
        "checkpoints": ["the_serializer_alone_seals_the_state"]
    },
    "A key that encrypted checkpoints": {
        "rotation": ["checkpoints_are_counted"],
        "checkpoints_forged": ["a_key_that_is_missing_is_named_with_its_checkpoint"],
    },
    "People may have a second factor": {
        "mfa": [
            "it_is_on_after_a_first_code",
            "a_code_is_good_once",
            "the_same_limits_hold",
            "turning_it_off_needs_a_code",
        ]
    },
    "Its codes have the same limits": {
        "mfa": [
            "it_is_on_after_a_first_code",
            "a_code_is_good_once",
            "the_same_limits_hold",
            "turning_it_off_needs_a_code",
        ]
    },
    "A first code turns it": {
        "mfa": [
            "it_is_on_after_a_first_code",
            "a_code_is_good_once",
            "the_same_limits_hold",
            "turning_it_off_needs_a_code",
        ]
    },
    "All spellings of a code (spaces,": {"mfa": ["a_code_is_the_same_however_people_type_it"]},
    "Refusals of `mfa.verify` look": {
        "mfa": ["refusals_look_alike", "guesses_about_who_cant_be_right_lock_nobody_out"]
    },
    "If an account has no": {
        "mfa": ["refusals_look_alike", "guesses_about_who_cant_be_right_lock_nobody_out"]
    },
    "Ten recovery codes of 80 bits": {
        "mfa": ["a_recovery_code_works_once", "a_recovery_code_is_one_persons"]
    },
    "`approve_with_totp` stops a graph": {
        "approval": [
            "a_named_persons_code_lets_it_go_on",
            "a_wrong_code_asks_again_and_each_code_is_checked_once",
        ]
    },
    "`pipelit.approvals` does the": {"approvals": ["a_question_is_asked_decided_and_used_once"]},
    "The question (its id, the SHA-256": {
        "approvals": ["every_field_is_under_the_tag", "an_approval_that_ended_is_not_turned_back"]
    },
    "The HMAC of a question also covers its state.": {
        "approvals": ["every_field_is_under_the_tag", "an_approval_that_ended_is_not_turned_back"]
    },
    "The displayed text is encrypted": {"approvals": ["what_is_shown_is_stored_encrypted"]},
    "With `approvals.require`, the": {
        "approvals": ["of_many_that_act_at_once_one_may", "an_older_copy_of_the_rows_is_not_enough"]
    },
    "The use is also recorded in a": {
        "approvals": ["of_many_that_act_at_once_one_may", "an_older_copy_of_the_rows_is_not_enough"]
    },
    "The only later change to": {
        "approvals": ["of_many_that_act_at_once_one_may", "an_older_copy_of_the_rows_is_not_enough"]
    },
    "The HMAC of a question also covers its rule": {
        "stored_forms": ["every_field_of_the_second_form_is_under_the_tag"],
        "forged_calls": [
            "a_changed_question_is_no_question",
            "a_question_is_not_pointed_at_another_call",
        ],
    },
    "With the database and without": {
        "approvals": [
            "a_planted_approval_is_none",
            "a_changed_question_is_nobodys",
            "a_changed_answer_is_no_answer",
            "a_planted_recovery_code_approves_nothing",
        ]
    },
    "These are refused: rows that": {
        "approvals": [
            "a_planted_approval_is_none",
            "a_changed_question_is_nobodys",
            "a_changed_answer_is_no_answer",
            "a_planted_recovery_code_approves_nothing",
        ]
    },
    "The refusal has a reason, and": {"approvals": ["a_planted_approval_is_none"]},
    "An approval can be used once,": {
        "approvals": ["a_used_approval_stays_used_whatever_the_clock_does"]
    },
    "A time in the future is refused,": {
        "approvals": ["what_a_clock_that_was_ahead_made_is_refused_and_named"]
    },
    "A denial by a named approver,": {
        "approvals": [
            "a_denial_afterwards_voids_an_approval",
            "an_approval_ends_with_the_second_factor_or_the_account",
        ]
    },
    "The HMAC of each approval": {
        "approvals": [
            "a_denial_that_is_deleted_counts_still",
            "who_denied_is_not_taken_out_of_an_approval",
        ]
    },
    "A deactivation deletes the person's": {"approvals": ["who_left_is_not_brought_back"]},
    "If several people must approve,": {
        "rules": ["who_leaves_counts_no_more", "one_denial_denies"],
        "forged_calls": ["one_answer_is_not_counted_twice"],
    },
    "The approval of a tool call is": {
        "tool_calls": [
            "an_approval_is_of_one_call",
            "the_approval_of_a_call_is_of_no_use_elsewhere",
        ]
    },
    "It starts the call once (and": {
        "tool_calls": ["twins_start_a_call_once", "a_call_that_interrupts_itself_starts_once_more"],
        "forged_calls": ["a_used_approval_is_not_restored", "a_suspended_call_is_not_restored"],
    },
    "A call whose result isn't known": {
        "tool_calls": ["twins_start_a_call_once", "a_call_that_interrupts_itself_starts_once_more"],
        "forged_calls": ["a_used_approval_is_not_restored", "a_suspended_call_is_not_restored"],
    },
    "An approval has to satisfy the": {
        "tool_calls": ["the_rule_of_the_running_code_counts", "the_rule_of_the_question_counts"]
    },
    "A model can't flood approvers.": {
        "tool_calls": [
            "limits_of_waiting_questions",
            "a_person_asks_so_many_questions",
            "a_thread_without_a_person_asks_so_many_questions",
            "waiting_questions_are_not_too_long_to_list",
        ]
    },
    "At most 200 questions about tool": {
        "tool_calls": [
            "limits_of_waiting_questions",
            "a_person_asks_so_many_questions",
            "a_thread_without_a_person_asks_so_many_questions",
            "waiting_questions_are_not_too_long_to_list",
        ]
    },
    "The displayed texts of these": {
        "tool_calls": [
            "limits_of_waiting_questions",
            "a_person_asks_so_many_questions",
            "a_thread_without_a_person_asks_so_many_questions",
            "waiting_questions_are_not_too_long_to_list",
        ]
    },
    "Further questions are refused.": {
        "tool_calls": [
            "limits_of_waiting_questions",
            "a_person_asks_so_many_questions",
            "a_thread_without_a_person_asks_so_many_questions",
            "waiting_questions_are_not_too_long_to_list",
        ]
    },
    "A planted row, with values of": {
        "planted_rows": [
            "planted_rows_are_in_nobodys_way",
            "a_changed_attempt_keeps_nobody_waiting",
        ]
    },
    "Nobody can deny in another person's": {
        "approvals": ["a_stranger_stops_nothing_without_a_code"]
    },
    "In a graph, it ends": {"approval": ["a_denial_without_a_code_ends_this_question_alone"]},
    "`approvals verify` detects rows": {
        "approval_register": [
            "a_change_is_found",
            "a_restored_row_is_found",
            "everything_deleted_is_found_by_sealed_entries",
        ]
    },
    "With the key alone, it detects": {"approval_register": ["an_edited_file_is_found"]},
    "With an export that you kept,": {
        "approval_register": ["an_older_database_is_found_by_an_export_that_was_kept"]
    },
    "At a terminal, in a notebook": {
        "approvals_commands": [
            "what_misleads_is_escaped",
            "foreign_letters_are_named",
            "signs_that_look_like_others_are_named",
            "padding_draws_no_line",
            "a_warning_is_the_last_line",
            "a_long_value_has_a_warning",
        ],
        "display": ["a_question_is_shown_whole_and_exactly"],
        "static_files": ["whatever_is_approved_is_in_the_page_as_a_whole"],
    },
    "Long runs of spaces and characters": {
        "approvals_commands": [
            "what_misleads_is_escaped",
            "foreign_letters_are_named",
            "signs_that_look_like_others_are_named",
            "padding_draws_no_line",
            "a_warning_is_the_last_line",
            "a_long_value_has_a_warning",
        ],
        "display": ["a_question_is_shown_whole_and_exactly"],
        "static_files": ["whatever_is_approved_is_in_the_page_as_a_whole"],
    },
    "Letters of other alphabets and": {
        "approvals_commands": [
            "what_misleads_is_escaped",
            "foreign_letters_are_named",
            "signs_that_look_like_others_are_named",
            "padding_draws_no_line",
            "a_warning_is_the_last_line",
            "a_long_value_has_a_warning",
        ],
        "display": ["a_question_is_shown_whole_and_exactly"],
        "static_files": ["whatever_is_approved_is_in_the_page_as_a_whole"],
    },
    "The time to display a question": {
        "approvals_commands": [
            "a_deep_value_is_no_longer_than_it_is",
            "the_beginning_of_a_value_is_escaped_and_cut",
        ],
        "desk_approvals": ["a_huge_question_stops_no_list"],
    },
    "A list of questions shows one": {
        "approvals_commands": [
            "a_deep_value_is_no_longer_than_it_is",
            "the_beginning_of_a_value_is_escaped_and_cut",
        ],
        "desk_approvals": ["a_huge_question_stops_no_list"],
    },
    "A tool with a gate (`ApprovalMiddleware`,": {
        "tool_gate": ["it_waits_and_pays_once", "two_of_three_have_to_approve"],
        "approval_middleware": ["three_calls_are_answered_apart"],
        "task_approvals": ["a_task_waits_for_a_yes_and_goes_out_once", "tasks_are_answered_apart"],
    },
    "The gate reads the answer from": {
        "tool_gate": [
            "an_approver_who_was_deactivated_approved_nothing",
            "a_stranger_with_the_thread_cannot_answer",
        ],
        "task_approvals": ["an_approver_who_was_deactivated_approved_nothing"],
    },
    "A resume approves nothing, and": {
        "tool_gate": [
            "it_waits_and_pays_once",
            "changed_arguments_are_another_question",
            "another_thread_asks_again",
            "a_copied_thread_asks_again",
            "a_fork_asks_again",
            "time_travel_asks_again",
        ],
        "approval_middleware": ["a_reviewers_answer_approves_nothing"],
    },
    "If somebody edited the arguments,": {
        "approval_middleware": [
            "edited_arguments_are_asked_again",
            "a_reviewer_cannot_pass_the_gate_by_another_tool",
        ],
        "task_approvals": ["another_input_needs_another_yes"],
    },
    "If code changes the message": {
        "tool_gate": ["code_beside_the_tool_cannot_change_what_was_approved"]
    },
    "A tool that fails, is cancelled": {
        "approved_payments": [
            "a_killed_process_never_pays_twice",
            "processes_that_wake_the_agent_at_once_pay_once",
        ],
        "tool_gate": [
            "a_kill_after_the_approval_was_used",
            "a_tool_that_raises_is_not_run_again",
            "a_cancelled_tool_is_not_run_again",
            "twins_pay_once",
        ],
        "approval_middleware": ["a_failed_payment_is_not_retried"],
        "task_approvals": ["after_a_kill_a_task_isnt_sent_again"],
    },
    "The model gets the message": {"tool_gate": ["a_kill_after_the_approval_was_used"]},
    "A sub-agent that runs such a": {
        "approval_middleware": ["a_sub_agent_that_inherits_the_tool_is_refused"],
        "behind_the_gate": [
            "it_cannot_choose_a_tool_without_its_gate",
            "it_cannot_change_a_call_of_its_own_tool",
            "it_cannot_make_a_call_of_its_own_tool_twice",
        ],
    },
    "The same is true for middleware": {
        "approval_middleware": ["a_sub_agent_that_inherits_the_tool_is_refused"],
        "behind_the_gate": [
            "it_cannot_choose_a_tool_without_its_gate",
            "it_cannot_change_a_call_of_its_own_tool",
            "it_cannot_make_a_call_of_its_own_tool_twice",
        ],
    },
    "A gate that can't ask refuses": {
        "tool_gate": [
            "a_run_that_cannot_wait_is_an_error",
            "arguments_that_cannot_be_displayed_are_refused",
            "a_call_that_nobody_could_approve_is_refused_in_words",
        ],
        "task_approvals": ["an_error_of_the_graphs_author_sends_nothing"],
    },
    "This happens without a checkpointer": {
        "tool_gate": [
            "a_run_that_cannot_wait_is_an_error",
            "arguments_that_cannot_be_displayed_are_refused",
            "a_call_that_nobody_could_approve_is_refused_in_words",
        ],
        "task_approvals": ["an_error_of_the_graphs_author_sends_nothing"],
    },
    "A denial of a call ends that": {"tool_calls": ["a_denied_call_does_not_start"]},
    "It doesn't end another call": {"tool_calls": ["a_denied_call_does_not_start"]},
    "The model gets the name": {"tool_gate": ["a_denial_is_in_words"]},
    "In a `ToolNode`, the model": {"tool_gate": ["a_model_cannot_fill_what_the_tool_hides"]},
    "People and rules see the arguments": {
        "read_arguments": [
            "people_see_what_the_function_receives",
            "a_model_cannot_get_around_when",
        ],
        "tool_gate": ["a_tool_with_a_json_schema_hides_only_what_langgraph_injects"],
    },
    "So people always see the": {
        "read_arguments": [
            "people_see_what_the_function_receives",
            "a_model_cannot_get_around_when",
        ],
        "tool_gate": ["a_tool_with_a_json_schema_hides_only_what_langgraph_injects"],
    },
    "The question, the reason of a": {
        "approvals": ["what_is_shown_is_stored_encrypted"],
        "tool_calls": ["a_result_is_stored_encrypted"],
    },
    "A notice has no arguments unless": {
        "approval_notices": ["a_webhook_has_no_arguments_unless_told_so"],
        "webhooks": ["a_receiver_verifies_what_arrives"],
    },
    "A key can be replaced while the": {
        "rotation": [
            "everything_opens_under_the_newer_key_alone",
            "killed_three_times_with_writers_beside_it_loses_nothing",
            "a_value_that_is_written_meanwhile_is_not_overwritten",
        ]
    },
    "Each value is replaced only if": {
        "rotation": [
            "everything_opens_under_the_newer_key_alone",
            "killed_three_times_with_writers_beside_it_loses_nothing",
            "a_value_that_is_written_meanwhile_is_not_overwritten",
        ]
    },
    "Before the command reports that": {
        "rotation": ["checkpoints_are_counted"],
        "rotation_columns": [
            "an_applications_columns_are_counted_and_rotated",
            "a_column_that_no_model_has_any_more_is_counted",
            "a_forgotten_column_of_a_named_table_is_counted",
            "any_column_of_sqlite_may_hold_a_token",
            "any_type_of_postgresql_that_can_hold_a_token_is_read",
            "a_checkpointer_in_this_database_is_noticed",
            "checkpoints_that_nobody_named_are_never_a_yes",
        ],
        "sealed_columns": [
            "a_new_table_is_counted_and_rotated",
            "a_column_without_a_purpose_loses_nothing",
        ],
    },
    "This data is in the": {
        "rotation": ["checkpoints_are_counted"],
        "rotation_columns": [
            "an_applications_columns_are_counted_and_rotated",
            "a_column_that_no_model_has_any_more_is_counted",
            "a_forgotten_column_of_a_named_table_is_counted",
            "any_column_of_sqlite_may_hold_a_token",
            "any_type_of_postgresql_that_can_hold_a_token_is_read",
            "a_checkpointer_in_this_database_is_noticed",
            "checkpoints_that_nobody_named_are_never_a_yes",
        ],
        "sealed_columns": [
            "a_new_table_is_counted_and_rotated",
            "a_column_without_a_purpose_loses_nothing",
        ],
    },
    "So nothing is lost if": {
        "rotation": ["checkpoints_are_counted"],
        "rotation_columns": [
            "an_applications_columns_are_counted_and_rotated",
            "a_column_that_no_model_has_any_more_is_counted",
            "a_forgotten_column_of_a_named_table_is_counted",
            "any_column_of_sqlite_may_hold_a_token",
            "any_type_of_postgresql_that_can_hold_a_token_is_read",
            "a_checkpointer_in_this_database_is_noticed",
            "checkpoints_that_nobody_named_are_never_a_yes",
        ],
        "sealed_columns": [
            "a_new_table_is_counted_and_rotated",
            "a_column_without_a_purpose_loses_nothing",
        ],
    },
    "Uncounted data is listed,": {
        "rotation_columns": [
            "models_that_this_process_knows_and_nobody_named_are_said",
            "rows_that_a_policy_hides_are_not_taken_for_none",
        ],
        "sealed_columns": ["a_new_tag_is_named_until_a_service_tags_it_again"],
    },
    "`--purge` removes old ciphertext": {
        "rotation": ["old_ciphertext_leaves_the_file"],
        "operations": ["a_key_that_is_purged_leaves_nothing"],
    },
    "The audit trail can be sealed": {
        "audit_chain": [
            "what_is_sealed_cant_be_changed_unseen",
            "a_cut_off_end_shows_against_a_head",
        ]
    },
    "A changed, removed, inserted": {
        "audit_chain": [
            "what_is_sealed_cant_be_changed_unseen",
            "a_cut_off_end_shows_against_a_head",
        ]
    },
    "Deletion of the newest seals": {
        "audit_chain": [
            "what_is_sealed_cant_be_changed_unseen",
            "a_cut_off_end_shows_against_a_head",
        ]
    },
    "`audit verify` counts every entry": {
        "audit_numbers": ["many_planted_numbers_are_counted_and_some_named"]
    },
    "If an entry has a": {
        "audit_numbers": [
            "a_number_that_was_never_given_is_named",
            "a_planted_number_locks_nobody_out",
        ]
    },
    "Such a number is zero,": {
        "audit_numbers": [
            "a_number_that_was_never_given_is_named",
            "a_planted_number_locks_nobody_out",
        ]
    },
    "It doesn't prevent later entries": {
        "audit_numbers": [
            "a_number_that_was_never_given_is_named",
            "a_planted_number_locks_nobody_out",
        ]
    },
    "An entry that is planted just": {
        "audit_numbers": [
            "an_entry_planted_just_ahead_stops_nobody",
            "many_entries_planted_ahead_are_refused_in_words_until_the_numbering_is_past_them",
        ]
    },
    "If more than a hundred were planted": {
        "audit_numbers": [
            "an_entry_planted_just_ahead_stops_nobody",
            "many_entries_planted_ahead_are_refused_in_words_until_the_numbering_is_past_them",
        ]
    },
    "No transaction waits for the": {"audit_numbers": ["no_verification_waits_for_the_sealer"]},
    "An entry that PostgreSQL commits": {
        "audit_numbers": ["an_entry_that_is_committed_late_is_sealed_late"]
    },
    "Pruning also uses the order of": {
        "audit_chain": [
            "an_entry_from_a_clock_that_was_ahead_is_stepped_over",
            "a_clock_that_was_behind_deletes_nothing_early",
        ]
    },
    "So an entry from a clock that": {
        "audit_chain": [
            "an_entry_from_a_clock_that_was_ahead_is_stepped_over",
            "a_clock_that_was_behind_deletes_nothing_early",
        ]
    },
    "Every decision is audited, with": {
        "users": ["everything_that_decides_is_audited"],
        "spawn": ["every_outcome_is_audited"],
        "mfa": ["all_of_it_is_audited"],
    },
    "A successful `authenticate` is": {
        "api_keys": ["the_last_use_is_written_at_most_once_a_minute"]
    },
    "For each account and reason,": {
        "refusals": ["of_a_flood_the_first_are_written_and_the_rest_is_counted"]
    },
    "The others are counted, and one": {"refusals": ["a_long_flood_makes_an_entry_a_minute"]},
    "API keys have 256 random": {
        "api_keys": ["the_shape_of_a_key", "the_database_has_sha256_of_a_key_only"]
    },
    "They are stored as SHA-256": {
        "api_keys": ["the_shape_of_a_key", "the_database_has_sha256_of_a_key_only"]
    },
    "The desk verifies the caller's": {
        "ended_callers": [
            "a_body_that_was_held_back_does_nothing",
            "a_request_that_waited_for_a_code_does_nothing",
            "a_request_that_waited_for_a_thread_does_nothing",
            "an_export_ends_with_the_key",
        ]
    },
    "So a delayed request does nothing": {
        "ended_callers": [
            "a_body_that_was_held_back_does_nothing",
            "a_request_that_waited_for_a_code_does_nothing",
            "a_request_that_waited_for_a_thread_does_nothing",
            "an_export_ends_with_the_key",
        ]
    },
    "One source (an IPv4 address,": {
        "serving": [
            "a_client_that_takes_nothing_is_cut_off",
            "a_handshake_is_bounded_too",
            "a_network_of_one_customer_is_one_source",
            "headers_have_a_time",
            "one_address_hasnt_all_connections",
        ],
        "guards": ["a_body_has_a_size_and_a_time"],
    },
    "It has ten seconds to": {
        "serving": [
            "a_client_that_takes_nothing_is_cut_off",
            "a_handshake_is_bounded_too",
            "a_network_of_one_customer_is_one_source",
            "headers_have_a_time",
            "one_address_hasnt_all_connections",
        ],
        "guards": ["a_body_has_a_size_and_a_time"],
    },
    "The set-up token, which creates": {
        "set_up_token": [
            "a_token_of_an_old_log_doesnt_come_again",
            "an_old_token_doesnt_come_again",
        ]
    },
}

# Sentences among the promises that limit one, or send the reader elsewhere.
LIMITS: Final = (
    "Audience codes at other verifiers,",
    "Strangers can still lock three",
    'The lane "others" of an',
    "Codes that the person enters while",
    'The lane "others" of a person.',
    "A verifier of another owner,",
    "The lane of one verifier",
    "In all these cases, audience",
    "For all of these steps",
    "A disk that loses confirmed data",
    "Changes by an operator (accounts,",
    "A database that is restored from",
    "Each transaction tells PostgreSQL",
    "[Deployment](docs/deployment.md#what-happens-when-something-fails)",
    "[Answers](docs/answers.md) has",
    "A text in the lead's conversation",
    "The server distinguishes 100,000",
    "If there are more, the",
    "Each process of a server has",
    "On an event loop, only",
    "Anyone who can write to the database",
    "The replaced key is then",
    "It doesn't apply in a",
    "It prevents mistakes, but it",
    "A password of ordinary words",
    "Deleted checkpoints aren't detected.",
    "If all writes of a call were",
    "If an older copy of",
    "A thread then continues from",
    "A run that acts for",
    "On SQLite, an entry that is planted",
    "The distance also shrinks",
    "`audit verify` still names the",
    "A process that is killed loses",
    "A write that has begun is completed.",
)

NO_PROMISE: Final = ("**Not defended.**", "**Not offered.**")


def rows(text: str) -> list[list[str]]:
    """The cells of each row of the tables in a text, but for their heads."""
    found = []
    lines = text.splitlines()
    for number, line in enumerate(lines):
        following = lines[number + 1] if number + 1 < len(lines) else ""
        is_head = re.fullmatch(r"[|\s:-]+", following)
        if line.startswith("|") and not is_head and not re.fullmatch(r"[|\s:-]+", line):
            found.append([each.strip() for each in line.strip().strip("|").split("|")])
    return found


def sentences(text: str) -> list[str]:
    """The sentences of a text's paragraphs."""
    found = []
    for block in re.split(r"\n\s*\n", text.strip()):
        if not block.lstrip().startswith(("|", "#")):
            for item in re.split(r"(?m)^- ", block):
                line = " ".join(item.split())
                found += filter(None, re.split(r'(?<=[.:;])\s+(?=[A-Z*`\["])', line))
    return found


def claims_of_the_readme() -> list[str]:
    """What README's table says that it defends."""
    text = (ROOT / "README.md").read_text()
    part = text.split("\n## What it defends")[1].split("\n## ")[0]
    return [row[0] for row in rows(part) if not row[1].startswith(NO_PROMISE)]


def claims_of_the_security_page() -> list[str]:
    """What SECURITY.md promises, sentence by sentence and row by row."""
    text = (ROOT / "SECURITY.md").read_text()
    part = text.split("\n## What is promised\n")[1].split("\n## ")[0]
    return [*sentences(part), *(row[0] for row in rows(part))]


@cache
def files() -> dict[str, Path]:
    """The files of tests, by the name that the tables here give them."""
    return {each.stem.removeprefix("test_"): each for each in TESTS.rglob("test_*.py")}


@cache
def names_in(file: str) -> frozenset[str]:
    """The tests of a file, also those of its classes."""
    found = re.findall(
        r"^(?: {4})?(?:async )?def test_(\w+)", files()[file].read_text(), re.MULTILINE
    )
    return frozenset(found)


def test_each_row_of_the_readme_names_its_tests() -> None:
    """A row that is added or reworded needs tests that would fail when it turns false."""
    assert not_listed_once(claims_of_the_readme(), README_CLAIMS) == []


def test_each_promise_of_the_security_page_names_its_tests() -> None:
    """A promise that is added or reworded needs tests too, or is said to be a limit."""
    listed = (*SECURITY_CLAIMS, *LIMITS)
    assert not_listed_once(claims_of_the_security_page(), listed) == []


def not_listed_once(claims: Iterable[str], listed: Collection[str]) -> list[str]:
    """The claims that begin with none of the listed words, or with those of several."""
    return [each for each in claims if sum(map(each.startswith, listed)) != 1]


def test_no_claim_is_listed_that_nobody_makes() -> None:
    """What was taken from the pages is taken from the tables here."""
    made = claims_of_the_readme() + claims_of_the_security_page()
    listed = (*README_CLAIMS, *SECURITY_CLAIMS, *LIMITS)
    assert [each for each in listed if not any(claim.startswith(each) for claim in made)] == []


def test_each_named_test_exists() -> None:
    """A test that is renamed or removed leaves its claim without proof."""
    named = {
        (file, name)
        for table in (README_CLAIMS, SECURITY_CLAIMS)
        for tests in table.values()
        for file, names in tests.items()
        for name in names
    }
    assert sorted((file, name) for file, name in named if name not in names_in(file)) == []
