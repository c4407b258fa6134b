"""
Every field of a request that OpenAI's, llama-server's or vLLM's schema has, and what becomes of it here.

The one rule: a field that is not in this table is in none of the three schemas. `docs/fields.md` is written from it.
"""

from __future__ import annotations

from collections.abc import Mapping

from router.api.field_kinds import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    EVERYWHERE,
    Endpoint,
    Field,
    alias,
    harmless,
    honoured,
    refused,
)

_SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
_FUNCTION = {"name": "f", "parameters": {"type": "object"}}
_TOOL = {"type": "function", "function": _FUNCTION}
_FORMAT = {"type": "json_object"}
_TOKENS_TOLD = "Only says how log probabilities are told, and asking for those is refused."
_NAMED = "A name for the operator of a service; no answer depends on it."

_ASKED = (
    honoured("model", "OLV", "any", "A model, an alias or a route of the registry.", on=EVERYWHERE),
    honoured("messages", "OLV", [{"role": "user", "content": "Hi"}], "See below.", on=CHAT),
    honoured("prompt", "OLV", "Hi", "A text, token ids, or a list of such.", on=COMPLETIONS),
    honoured("input", "OLV", "Hi", "A text, token ids, or a list of such.", on=EMBEDDINGS),
    honoured("stream", "OLV", True),
    honoured("stream_options", "OLV", {"include_usage": True}, "See below."),
    honoured("provider", "", {"allow_fallbacks": True}, "OpenRouter's: who may answer.", on=EVERYWHERE),
    honoured("metadata", "O", {"accuracy": "high"}, "`accuracy` chooses a route.", on=EVERYWHERE),
)

_SAMPLING = (
    honoured("temperature", "OLV", 0.5),
    honoured("top_p", "OLV", 0.9),
    honoured("top_k", "LV", 20),
    honoured("min_p", "LV", 0.1),
    honoured("repeat_penalty", "L", 1.1),
    alias("repetition_penalty", "V", 1.1, "repeat_penalty"),
    honoured("repeat_last_n", "L", -1, "-1: the whole context."),
    honoured("presence_penalty", "OLV", 0.5),
    honoured("frequency_penalty", "OLV", 0.5),
    honoured("seed", "OLV", 5),
    honoured("max_completion_tokens", "OLV", 2, "Goes before `max_tokens`."),
    honoured("max_tokens", "OLV", 2, "At most what the context leaves."),
    alias("n_predict", "L", 2, "max_tokens"),
    honoured("stop", "OLV", ["\n\n"]),
    honoured("logit_bias", "OLV", {"5": -1}),
    honoured("ignore_eos", "LV", False),
    honoured("cache_prompt", "L", True),
    refused("stop_token_ids", "V", [2]),
    refused("include_stop_str_in_output", "V", True, False),
    refused("min_tokens", "V", 3, 0),
    refused("bad_words", "V", ["no"]),
    refused("allowed_token_ids", "V", [5]),
    refused("logits_processors", "V", ["a.b"]),
    refused("typical_p", "L", 0.5, 1),
    refused("top_n_sigma", "L", 1.0, -1, 0),
    refused("tfs_z", "L", 0.5, 1),
    refused("mirostat", "L", 2, 0),
    harmless("mirostat_tau", "L", 5.0, "Means nothing without `mirostat`."),
    harmless("mirostat_eta", "L", 0.1, "Means nothing without `mirostat`."),
    refused("dry_multiplier", "L", 0.8, 0),
    harmless("dry_base", "L", 1.75, "Means nothing without `dry_multiplier`."),
    harmless("dry_allowed_length", "L", 2, "Means nothing without `dry_multiplier`."),
    harmless("dry_penalty_last_n", "L", -1, "Means nothing without `dry_multiplier`."),
    harmless("dry_sequence_breakers", "L", ["\n"], "Means nothing without `dry_multiplier`."),
    refused("xtc_probability", "L", 0.5, 0),
    harmless("xtc_threshold", "L", 0.1, "Means nothing without `xtc_probability`."),
    refused("dynatemp_range", "L", 0.5, 0),
    harmless("dynatemp_exponent", "L", 1.0, "Means nothing without `dynatemp_range`."),
    refused("adaptive_target", "L", 0.5, -1),
    harmless("adaptive_decay", "L", 0.9, "Means nothing without `adaptive_target`."),
    refused("min_keep", "L", 3, 0),
    refused("penalize_nl", "L", True, False),
    refused("samplers", "L", ["top_k"]),
    harmless("backend_sampling", "L", True, "Says where tokens are sampled, not how."),
    refused("use_beam_search", "V", True, False),
    refused("length_penalty", "V", 2.0, 1),
    refused("early_stopping", "V", True, False),
    refused("repetition_detection", "V", {"max_pattern_size": 5}),
    refused("watermarking", "V", True, False),
    refused("lora", "L", [{"id": 0, "scale": 0.5}]),
    refused("t_max_predict_ms", "L", 500, -1, 0),
    refused("t_max_prompt_ms", "L", 500, -1, 0),
    refused("n_indent", "L", 2, 0),
)

_SHAPE = (
    refused("n", "OLV", 2, 1, note="One answer a request."),
    refused("n_cmpl", "L", 2, 1),
    refused("best_of", "OV", 2, 1),
    refused("tools", "OLV", [_TOOL], off_by="tool_choice"),
    refused("tool_choice", "OLV", "required", "none", "auto", note="`none` switches `tools` off."),
    refused("functions", "OLV", [_FUNCTION], off_by="function_call"),
    refused("function_call", "OLV", {"name": "f"}, "none", "auto", note="`none` switches `functions` off."),
    harmless("parallel_tool_calls", "OLV", True, "Means nothing without `tools`."),
    harmless("parse_tool_calls", "L", True, "Means nothing without `tools`."),
    refused("response_format", "OLV", _FORMAT, {"type": "text"}),
    refused("grammar", "L", 'root ::= "a"'),
    refused("grammar_lazy", "L", True, False),
    refused("grammar_triggers", "L", [{"type": 0, "value": "a"}]),
    harmless("preserved_tokens", "L", ["a"], "Means nothing without `grammar_triggers`."),
    refused("json_schema", "L", _SCHEMA),
    refused("structured_outputs", "V", {"regex": "a+"}),
    refused("structural_tag", "V", "{}"),
    refused("guided_json", "V", _SCHEMA),
    refused("guided_regex", "V", "a+"),
    refused("guided_choice", "V", ["a", "b"]),
    refused("guided_grammar", "V", 'root ::= "a"'),
    harmless("guided_decoding_backend", "V", "auto", "Means nothing without the other `guided_...`."),
    harmless("guided_whitespace_pattern", "V", " ", "Means nothing without the other `guided_...`."),
    refused("format", "", "json", note="Ollama's."),
    refused("logprobs", "OLV", True, False, on=CHAT),
    refused("logprobs", "OLV", 0, False, on=COMPLETIONS, note="0 asks for those of the chosen tokens."),
    refused("top_logprobs", "OLV", 3, 0),
    refused("n_probs", "L", 3, 0),
    harmless("post_sampling_probs", "L", True, "Means nothing without `n_probs`."),
    refused("prompt_logprobs", "V", 0),
    refused("logprob_token_ids", "V", [5]),
    harmless("return_tokens_as_token_ids", "V", True, _TOKENS_TOLD),
    refused("return_token_ids", "V", True, False),
    refused("return_tokens", "L", True, False),
    refused("return_prompt_text", "V", True, False),
    refused("response_fields", "L", ["content"]),
    harmless("return_token_offsets", "V", True, "Of an endpoint that is not served here."),
    harmless("return_mm_kwargs", "V", True, "Of an endpoint that is not served here."),
    harmless("routed_experts_prompt_start", "V", 1, "Of data that is not returned here."),
    harmless("timings_per_token", "L", True, "Figures beside the answer; the headers tell some."),
    harmless("return_progress", "L", True, "Progress is told in comments of a stream."),
    harmless("verbose", "L", True, "Figures beside the answer."),
    refused("echo", "OV", True, False),
    refused("suffix", "OV", "the end"),
    refused("modalities", "O", ["text", "audio"], ["text"]),
    refused("audio", "O", {"voice": "alloy", "format": "wav"}),
    refused("web_search_options", "O", {"search_context_size": "low"}),
    refused("moderation", "O", {"model": "omni-moderation-latest"}),
    refused("verbosity", "O", "low", "medium"),
    refused("skip_special_tokens", "V", False, True),
    refused("spaces_between_special_tokens", "V", False, True),
    harmless("stream_interval", "V", 4, "How many tokens a piece of a stream has, not which."),
)

_THOUGHTS = (
    refused(
        "reasoning_effort",
        "OLV",
        "none",
        "low",
        "medium",
        "high",
        note="Low, medium and high choose a route; a local model ignores them.",
    ),
    refused("include_reasoning", "V", False, True),
    refused("thinking", "", {"type": "enabled", "budget_tokens": 1024}, {"type": "disabled"}),
    refused("thinking_token_budget", "V", 100, -1),
    refused("thinking_budget_tokens", "L", 100, -1),
    refused("reasoning_budget_tokens", "L", 100, -1),
    harmless("reasoning_budget_start_tag", "L", "<t>", "Means nothing without `reasoning_budget_tokens`."),
    harmless("reasoning_budget_end_tag", "L", "</t>", "Means nothing without `reasoning_budget_tokens`."),
    harmless("reasoning_budget_message", "L", "So:", "Means nothing without `reasoning_budget_tokens`."),
    harmless(
        "reasoning_budget_arm_immediately", "L", True, "Means nothing without `reasoning_budget_tokens`."
    ),
    refused("reasoning_format", "L", "deepseek", "none", "auto"),
    refused("reasoning_in_content", "L", False, True, note="Thoughts are a part of the content."),
    refused("thinking_forced_open", "L", True, False),
    refused("chat_format", "L", 3, 0),
    refused("chat_parser", "L", "x"),
)

_PROMPT = (
    refused("add_generation_prompt", "LV", False, True),
    refused("continue_final_message", "LV", True, False),
    refused("chat_template", "V", "{{ messages }}"),
    refused("chat_template_kwargs", "LV", {"enable_thinking": False}),
    refused("add_special_tokens", "V", True, False, on=CHAT),
    refused("add_special_tokens", "V", False, True, on=(*COMPLETIONS, *EMBEDDINGS)),
    refused("documents", "V", [{"title": "a", "text": "b"}]),
    refused("prompt_embeds", "V", "AAAA", on=COMPLETIONS),
    refused("truncate_prompt_tokens", "V", 10, on=EVERYWHERE),
    harmless(
        "truncation_side", "V", "left", "Means nothing without `truncate_prompt_tokens`.", on=EVERYWHERE
    ),
    refused("input_extra", "L", [{"filename": "a", "text": "b"}]),
    harmless("media_io_kwargs", "V", {"image": {}}, "About images and sounds, which are refused."),
    harmless("mm_processor_kwargs", "V", {"a": 1}, "About images and sounds, which are refused.", EVERYWHERE),
    refused("kv_transfer_params", "V", {"a": 1}),
    refused("ec_transfer_params", "V", {"a": 1}),
    refused("vllm_xargs", "V", {"a": 1}),
)

_SERVICE = (
    harmless("user", "OV", "ada", _NAMED, on=EVERYWHERE),
    harmless("safety_identifier", "O", "ada", _NAMED),
    harmless("session_id", "V", "1", _NAMED),
    harmless("request_id", "V", "1", "Send the header x-request-id.", on=EVERYWHERE),
    harmless("store", "O", True, "What happens to the answer later; nothing is stored here."),
    harmless("service_tier", "O", "auto", "A price; a local model has none."),
    harmless("prediction", "O", {"type": "content", "content": "a"}, "Makes an answer faster, not another."),
    harmless("prompt_cache_key", "O", "a", "Says where a prompt may be cached."),
    harmless("prompt_cache_options", "O", {"mode": "implicit"}, "Says how a prompt may be cached."),
    harmless("prompt_cache_retention", "O", "24h", "Says how long a prompt may be cached."),
    harmless("cache_salt", "V", "a", "Says which requests may share a cached prompt.", on=EVERYWHERE),
    harmless("priority", "V", 1, "Send the header x-router-priority.", on=EVERYWHERE),
    harmless("id_slot", "L", 0, "Says which slot answers; a free one is chosen."),
    harmless("n_keep", "L", 5, "About shifting a full context, which is not done."),
    harmless("n_discard", "L", 5, "About shifting a full context, which is not done."),
    harmless("n_cache_reuse", "L", 0, "About reusing parts of a cached prompt."),
    *(
        harmless(f"speculative.{name}", "L", value, "Makes an answer faster, not another.")
        for name, value in {
            "n_max": 4,
            "n_min": 0,
            "p_min": 0.5,
            "type": "none",
            "ngram_size_n": 4,
            "ngram_size_m": 4,
            "ngram_m_hits": 1,
        }.items()
    ),
)

_VECTORS = (
    honoured("encoding_format", "OLV", "base64", on=EMBEDDINGS),
    honoured("dimensions", "OV", None, "Only the number that the model has.", on=EMBEDDINGS),
    refused("input_type", "V", "query", on=EMBEDDINGS),
    refused("normalize", "V", False, True, on=EMBEDDINGS, note="Vectors have the length 1."),
    refused("use_activation", "V", False, True, on=EMBEDDINGS),
    refused("embd_normalize", "L", -1, 2, on=EMBEDDINGS, note="2: the length is 1."),
    refused("embed_dtype", "V", "float16", "float32", on=EMBEDDINGS),
    refused("endianness", "V", "big", "little", "native", on=EMBEDDINGS),
    refused("messages", "V", [{"role": "user", "content": "Hi"}], on=EMBEDDINGS),
    refused("content", "L", "Hi", on=EMBEDDINGS),
    refused("chat_template", "V", "{{ messages }}", on=EMBEDDINGS),
    refused("chat_template_kwargs", "V", {"a": 1}, on=EMBEDDINGS),
    refused("additional_data", "V", {"a": 1}, on=EMBEDDINGS),
)

FIELDS: tuple[Field, ...] = (*_ASKED, *_SAMPLING, *_SHAPE, *_THOUGHTS, *_PROMPT, *_SERVICE, *_VECTORS)

MESSAGE_FIELDS: tuple[Field, ...] = (
    honoured("role", "OLV", "assistant", "`developer` is system.", on=CHAT),
    honoured("content", "OLV", "Hi", "A text or text parts; other parts are refused by name.", on=CHAT),
    honoured("name", "OLV", "Ada", on=CHAT),
    harmless("tool_call_id", "OLV", "x", "A tool's message is read where it stands.", on=CHAT),
    refused("tool_calls", "OLV", [{"id": "x", **_TOOL}], on=CHAT),
    refused("function_call", "OLV", {"name": "f", "arguments": "{}"}, on=CHAT),
    refused("audio", "O", {"id": "x"}, on=CHAT),
    refused("refusal", "O", "I will not.", on=CHAT),
    harmless("reasoning_content", "LV", "Hm.", "Thoughts of earlier answers are left out.", on=CHAT),
    harmless("reasoning", "V", "Hm.", "Thoughts of earlier answers are left out.", on=CHAT),
)
"""Of one of `messages`."""

STREAM_FIELDS: tuple[Field, ...] = (
    honoured("include_usage", "OLV", True),
    harmless("include_obfuscation", "O", True, "Padding beside the answer."),
    refused("continuous_usage_stats", "V", True, False),
)
"""Of `stream_options`."""

TABLE: Mapping[Endpoint, Mapping[str, Field]] = {
    endpoint: {field.name: field for field in FIELDS if endpoint in field.endpoints}
    for endpoint in EVERYWHERE
}
