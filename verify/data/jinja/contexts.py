"""What the templates of verify/data/jinja are rendered with."""

USER = {"role": "user", "content": "Hello, how are you?"}
ANSWER = {"role": "assistant", "content": "  I'm fine – thank you!\n"}
THANKS = {"role": "user", "content": "Prima, \"danke\" <b> & 你好\u3000"}
SYSTEM = {"role": "system", "content": " You answer like a pirate. "}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city, e.g. \"Zürich\"",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Its name"},
                "unit": {"type": "string", "enum": ["C", "F"]},
                "days": {"type": "integer"},
            },
            "required": ["city"],
        },
    },
}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "abc123def", "type": "function",
         "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 2}}}
    ],
}
RESULT = {"role": "tool", "name": "get_weather", "tool_call_id": "abc123def", "content": "{\"temp\": 12.5}"}
THOUGHT = {"role": "assistant", "content": "<think>\nHm, easy.\n</think>\n\nIt is 4."}


def context(messages, generate=True, tools=None, **more):
    c = {"messages": messages, "add_generation_prompt": generate, "bos_token": "<s>", "eos_token": "</s>", **more}
    if tools is not None:
        c["tools"] = tools
    return c


CONVERSATIONS = {
    "one": context([USER]),
    "turns": context([USER, ANSWER, THANKS]),
    "system": context([SYSTEM, USER, ANSWER, THANKS]),
    "finished": context([USER, ANSWER], generate=False),
    "broken": context([USER, USER]),
    "tools": context([SYSTEM, USER, CALL, RESULT], tools=[WEATHER]),
    "thinking": context([USER, THOUGHT, THANKS], enable_thinking=False),
    "parts": context([{"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "image"},
                                                   {"type": "text", "text": "this?"}]}]),
    "empty": context([]),
}

FEATURES = {
    "s": "Hello, Wörld 你好",
    "words": ["pear", "Apple", "fig", "apple"],
    "numbers": [3, 1, 2, 5, 4],
    "mixed": [1, 2.5, True, None, "a'b", "q\"\n", [1, [2]], {"k": "v"}],
    "people": [{"name": "Ann", "age": 31, "tags": ["x"]}, {"name": "bob", "age": 25, "tags": []},
               {"name": "Cid", "age": 31, "tags": ["x", "y"], "pet": {"kind": "cat"}}],
    "d": {"b": 1, "a": 2, "C": [1, 2], "items": "shadowed"},
    "nothing": None,
    "yes": True,
    "no": False,
    "n": 7,
    "f": 2.5,
    "html": "<a href='x'>\"&\"</a>",
    "blank": "  \t padded \n",
    "lines": "one\ntwo\n\nthree",
    "empty_list": [],
    "empty_dict": {},
    "text_json": {"é": "ü\u2028\x7f", "esc": "\"\\\n\r\t\b\f\x01/", "n": [1, 1.0, 1e20, 1e-7, -0.5, 100000.0]},
}
