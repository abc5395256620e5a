/* SPDX-License-Identifier: Apache-2.0 */
/* chat.c - the chat templates of the known families, each as its checkpoint's Jinja program writes
 * it when no tools are given. */
#include "chat.h"

#include "pretoken.h"
#include "utf8.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* ---- text under construction ------------------------------------------------------------------
 */

typedef struct {
    const spc_chat_template *chat;
    spc_chat_text out;
    size_t capacity;
    int32_t mark_capacity;
    bool no_memory;
    spc_error *err;
} writer;

static void put(writer *w, const char *text, size_t bytes)
{
    size_t capacity = w->capacity ? w->capacity : 256;

    if (w->no_memory) return;
    while (capacity - w->out.bytes <= bytes && capacity <= SIZE_MAX / 2) capacity *= 2;

    char *grown = capacity - w->out.bytes > bytes ? realloc(w->out.text, capacity) : NULL;

    if (!grown) {
        w->no_memory = true;
        return;
    }
    w->out.text = grown;
    w->capacity = capacity;
    memcpy(grown + w->out.bytes, text, bytes);
    w->out.bytes += bytes;
    grown[w->out.bytes] = '\0';
}

static void say(writer *w, const char *text)
{
    put(w, text, strlen(text));
}

/* Text that may become a special token. */
static void mark(writer *w, const char *text)
{
    if (w->out.mark_count == w->mark_capacity) {
        int32_t capacity = w->mark_capacity ? 2 * w->mark_capacity : 16;
        size_t *grown = w->mark_capacity <= INT32_MAX / 2
                            ? realloc(w->out.mark, (size_t)capacity * sizeof *grown)
                            : NULL;

        if (!grown) {
            w->no_memory = true;
            return;
        }
        w->out.mark = grown;
        w->mark_capacity = capacity;
    }
    w->out.mark[w->out.mark_count++] = w->out.bytes;
    say(w, text);
}

/* ---- words of messages ------------------------------------------------------------------------
 */

/* A part of a message. */
typedef struct {
    const char *text;
    size_t bytes;
} words;

static words words_of(const spc_chat_message *m)
{
    return (words){m->text ? m->text : "", m->bytes};
}

static void put_words(writer *w, words s)
{
    put(w, s.text, s.bytes);
}

/* What Python's strip takes away. */
static bool is_blank(uint32_t code)
{
    return spc_is_space(code) || (code >= 0x1c && code <= 0x1f);
}

static words strip_front(words s)
{
    while (s.bytes > 0) {
        bool whole;
        size_t n = spc_utf8_character(s.text, s.bytes, &whole, NULL);

        if (!is_blank(spc_utf8_decode(s.text, n))) break;
        s.text += n;
        s.bytes -= n;
    }
    return s;
}

static words strip_back(words s)
{
    while (s.bytes > 0) {
        size_t at = s.bytes - 1;

        while (at > 0 && ((unsigned char)s.text[at] & 0xC0) == 0x80) at--;
        if (!is_blank(spc_utf8_decode(s.text + at, s.bytes - at))) break;
        s.bytes = at;
    }
    return s;
}

static words strip(words s)
{
    return strip_back(strip_front(s));
}

static words strip_newlines(words s, bool front, bool back)
{
    while (front && s.bytes > 0 && s.text[0] == '\n') {
        s.text++;
        s.bytes--;
    }
    while (back && s.bytes > 0 && s.text[s.bytes - 1] == '\n') s.bytes--;
    return s;
}

static bool begins(words s, const char *with)
{
    return s.bytes >= strlen(with) && memcmp(s.text, with, strlen(with)) == 0;
}

static bool ends(words s, const char *with)
{
    size_t n = strlen(with);

    return s.bytes >= n && memcmp(s.text + s.bytes - n, with, n) == 0;
}

/* What stands before the first, and behind the last, occurrence of a text; all where it has none.
 */
static words before_first(words s, const char *text)
{
    const char *at = s.bytes > 0 ? memmem(s.text, s.bytes, text, strlen(text)) : NULL;

    return at ? (words){s.text, (size_t)(at - s.text)} : s;
}

static words behind_last(words s, const char *text)
{
    const char *at;

    while (s.bytes > 0 && (at = memmem(s.text, s.bytes, text, strlen(text)))) {
        at += strlen(text);
        s = (words){at, s.bytes - (size_t)(at - s.text)};
    }
    return s;
}

/* ---- the order of roles -----------------------------------------------------------------------
 */

static const char *const role_names[] = {"system", "user", "assistant"};

/* From message `first` on: user, assistant, user, ... */
static spc_status check_turns(const writer *w, const spc_chat_message *m, int32_t count,
                              int32_t first)
{
    for (int32_t i = first; i < count; i++) {
        spc_chat_role expected = (i - first) % 2 == 0 ? SPC_CHAT_USER : SPC_CHAT_ASSISTANT;

        if (m[i].role == expected) continue;
        return spc_error_set(w->err, SPC_EINPUT,
                             "message %d: the chat template %s expects the role %s there, found %s",
                             (int)i + 1, spc_chat_name(w->chat), role_names[expected],
                             role_names[m[i].role]);
    }
    return SPC_OK;
}

/* ---- ChatML: Qwen2, Qwen2.5, SmolLM2, Qwen3 ---------------------------------------------------
 */

static void begin_chatml(writer *w, const char *role)
{
    mark(w, "<|im_start|>");
    say(w, role);
    say(w, "\n");
}

static void end_chatml(writer *w)
{
    mark(w, "<|im_end|>");
    say(w, "\n");
}

static spc_status write_chatml(writer *w, const spc_chat_message *m, int32_t count, bool reply)
{
    if (w->chat->system[0] && m[0].role != SPC_CHAT_SYSTEM) {
        begin_chatml(w, "system");
        say(w, w->chat->system);
        end_chatml(w);
    }
    for (int32_t i = 0; i < count; i++) {
        begin_chatml(w, role_names[m[i].role]);
        put_words(w, words_of(&m[i]));
        end_chatml(w);
    }
    if (reply) begin_chatml(w, "assistant");
    return SPC_OK;
}

/* The last message a user wrote, results of tools apart; the last of all where there is none. */
static int32_t last_query(const spc_chat_message *m, int32_t count)
{
    for (int32_t i = count - 1; i >= 0; i--) {
        words s = words_of(&m[i]);
        bool result = begins(s, "<tool_response>") && ends(s, "</tool_response>");

        if (m[i].role == SPC_CHAT_USER && !result) return i;
    }
    return count - 1;
}

/* What the model thought is kept only behind the last thing the user said. */
static void put_qwen3_answer(writer *w, words s, bool behind_query, bool last)
{
    words thought = {"", 0}, said = s;

    if (before_first(s, "</think>").bytes < s.bytes) {
        thought = strip_newlines(before_first(s, "</think>"), false, true);
        thought = strip_newlines(behind_last(thought, "<think>"), true, false);
        said = strip_newlines(behind_last(s, "</think>"), true, false);
    }
    if (behind_query && (last || thought.bytes > 0)) {
        say(w, "<think>\n");
        put_words(w, strip_newlines(thought, true, true));
        say(w, "\n</think>\n\n");
        said = strip_newlines(said, true, false);
    }
    put_words(w, said);
}

static spc_status write_qwen3(writer *w, const spc_chat_message *m, int32_t count, bool reply)
{
    int32_t query = last_query(m, count);

    for (int32_t i = 0; i < count; i++) {
        begin_chatml(w, role_names[m[i].role]);
        if (m[i].role == SPC_CHAT_ASSISTANT) {
            put_qwen3_answer(w, words_of(&m[i]), i > query, i == count - 1);
        } else {
            put_words(w, words_of(&m[i]));
        }
        end_chatml(w);
    }
    if (reply) begin_chatml(w, "assistant");
    return SPC_OK;
}

/* enable_thinking=false: an empty thought stands before the answer. */
static spc_status write_qwen3_no_thinking(writer *w, const spc_chat_message *m, int32_t count,
                                          bool reply)
{
    spc_status status = write_qwen3(w, m, count, reply);

    if (reply) say(w, "<think>\n\n</think>\n\n");
    return status;
}

/* ---- Llama ------------------------------------------------------------------------------------
 */

static void begin_llama3(writer *w, const char *role)
{
    mark(w, "<|start_header_id|>");
    say(w, role);
    mark(w, "<|end_header_id|>");
    say(w, "\n\n");
}

static void put_llama3(writer *w, const spc_chat_message *m, int32_t from, int32_t count,
                       bool reply)
{
    for (int32_t i = from; i < count; i++) {
        begin_llama3(w, role_names[m[i].role]);
        put_words(w, strip(words_of(&m[i])));
        mark(w, "<|eot_id|>");
    }
    if (reply) begin_llama3(w, "assistant");
}

static spc_status write_llama3(writer *w, const spc_chat_message *m, int32_t count, bool reply)
{
    mark(w, "<|begin_of_text|>");
    put_llama3(w, m, 0, count, reply);
    return SPC_OK;
}

/* Llama 3.1, 3.2, 3.3.  The date is the one that these templates fall back to: a conversation must
 * not change its text, and with it its result, from one day to the next. */
static spc_status write_llama31(writer *w, const spc_chat_message *m, int32_t count, bool reply)
{
    int32_t from = m[0].role == SPC_CHAT_SYSTEM;

    mark(w, "<|begin_of_text|>");
    begin_llama3(w, "system");
    say(w, "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n");
    if (from > 0) put_words(w, strip(words_of(&m[0])));
    mark(w, "<|eot_id|>");
    put_llama3(w, m, from, count, reply);
    return SPC_OK;
}

static spc_status write_llama2(writer *w, const spc_chat_message *m, int32_t count, bool reply)
{
    int32_t from = m[0].role == SPC_CHAT_SYSTEM;
    spc_status status = check_turns(w, m, count, from);

    (void)reply; /* a reply follows [/INST] as it is */
    for (int32_t i = from; i < count && status == SPC_OK; i++) {
        if (m[i].role == SPC_CHAT_ASSISTANT) {
            say(w, " ");
            put_words(w, strip(words_of(&m[i])));
            say(w, " ");
            mark(w, "</s>");
            continue;
        }
        mark(w, "<s>");
        say(w, "[INST] ");
        if (i == from && from > 0) {
            say(w, "<<SYS>>\n");
            put_words(w, words_of(&m[0]));
            /* the template strips the whole: of an empty message these newlines go too */
            say(w, strip(words_of(&m[i])).bytes > 0 ? "\n<</SYS>>\n\n" : "\n<</SYS>>");
            put_words(w, strip_back(words_of(&m[i])));
        } else {
            put_words(w, strip(words_of(&m[i])));
        }
        say(w, " [/INST]");
    }
    return status;
}

/* ---- Mistral ----------------------------------------------------------------------------------
 */

typedef struct {
    const char *before, *space; /* before and behind [INST] */
    const char *end;            /* before [/INST] */
    const char *answer;         /* before an answer */
    bool strips;                /* answers */
    enum { NO_SYSTEM, WITH_FIRST, WITH_LAST } system;
} mistral_form;

static spc_status put_mistral(writer *w, const mistral_form *f, const spc_chat_message *m,
                              int32_t count)
{
    int32_t from = f->system != NO_SYSTEM && m[0].role == SPC_CHAT_SYSTEM;
    int32_t with = f->system == WITH_LAST ? count - 1 : from;
    spc_status status = check_turns(w, m, count, from);

    mark(w, "<s>");
    for (int32_t i = from; i < count && status == SPC_OK; i++) {
        if (m[i].role == SPC_CHAT_ASSISTANT) {
            say(w, f->answer);
            put_words(w, f->strips ? strip(words_of(&m[i])) : words_of(&m[i]));
            mark(w, "</s>");
            continue;
        }
        say(w, f->before);
        mark(w, "[INST]"); /* a special token since v3 */
        say(w, f->space);
        if (from > 0 && i == with) {
            put_words(w, words_of(&m[0]));
            say(w, "\n\n");
        }
        put_words(w, words_of(&m[i]));
        say(w, f->end);
        mark(w, "[/INST]");
    }
    return status;
}

static spc_status write_mistral_v1_old(writer *w, const spc_chat_message *m, int32_t count,
                                       bool reply)
{
    static const mistral_form form = {"", " ", " ", "", false, NO_SYSTEM};

    (void)reply; /* a reply follows [/INST] as it is, here and below */
    return put_mistral(w, &form, m, count);
}

static spc_status write_mistral_v1(writer *w, const spc_chat_message *m, int32_t count, bool reply)
{
    static const mistral_form form = {" ", " ", " ", " ", false, WITH_FIRST};

    (void)reply;
    return put_mistral(w, &form, m, count);
}

static spc_status write_mistral_v3(writer *w, const spc_chat_message *m, int32_t count, bool reply)
{
    static const mistral_form form = {"", " ", "", " ", true, WITH_LAST};

    (void)reply;
    return put_mistral(w, &form, m, count);
}

static spc_status write_mistral_nemo(writer *w, const spc_chat_message *m, int32_t count,
                                     bool reply)
{
    static const mistral_form form = {"", "", "", "", false, WITH_LAST};

    (void)reply;
    return put_mistral(w, &form, m, count);
}

/* ---- Gemma ------------------------------------------------------------------------------------
 */

static spc_status put_gemma(writer *w, const spc_chat_message *m, int32_t from, int32_t count,
                            bool reply)
{
    spc_status status = check_turns(w, m, count, from);

    mark(w, "<bos>");
    for (int32_t i = from; i < count && status == SPC_OK; i++) {
        mark(w, "<start_of_turn>");
        say(w, m[i].role == SPC_CHAT_USER ? "user\n" : "model\n");
        if (i == from && from > 0) {
            put_words(w, words_of(&m[0]));
            say(w, "\n\n");
        }
        put_words(w, strip(words_of(&m[i])));
        mark(w, "<end_of_turn>");
        say(w, "\n");
    }
    if (reply) {
        mark(w, "<start_of_turn>");
        say(w, "model\n");
    }
    return status;
}

static spc_status write_gemma2(writer *w, const spc_chat_message *m, int32_t count, bool reply)
{
    return put_gemma(w, m, 0, count, reply); /* a system message is refused */
}

static spc_status write_gemma3(writer *w, const spc_chat_message *m, int32_t count, bool reply)
{
    return put_gemma(w, m, m[0].role == SPC_CHAT_SYSTEM, count, reply);
}

/* ---- DeepSeek R1 and the models that learnt from it --------------------------------------------
 */

#define DEEPSEEK_END \
    "<\xef\xbd\x9c"  \
    "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>"
#define DEEPSEEK_BEGIN \
    "<\xef\xbd\x9c"    \
    "begin\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>"
#define DEEPSEEK_USER "<\xef\xbd\x9cUser\xef\xbd\x9c>"
#define DEEPSEEK_ASSISTANT \
    "<\xef\xbd\x9c"        \
    "Assistant\xef\xbd\x9c>"

/* The last system message stands ahead of all; of a reply only what follows its thoughts stays. */
static spc_status write_deepseek_r1_old(writer *w, const spc_chat_message *m, int32_t count,
                                        bool reply)
{
    words system = {"", 0};

    for (int32_t i = 0; i < count; i++) {
        if (m[i].role == SPC_CHAT_SYSTEM) system = words_of(&m[i]);
    }
    mark(w, DEEPSEEK_BEGIN);
    put_words(w, system);
    for (int32_t i = 0; i < count; i++) {
        if (m[i].role == SPC_CHAT_USER) {
            mark(w, DEEPSEEK_USER);
            put_words(w, words_of(&m[i]));
        } else if (m[i].role == SPC_CHAT_ASSISTANT) {
            mark(w, DEEPSEEK_ASSISTANT);
            put_words(w, behind_last(words_of(&m[i]), "</think>"));
            mark(w, DEEPSEEK_END);
        }
    }
    if (reply) mark(w, DEEPSEEK_ASSISTANT);
    return SPC_OK;
}

/* The later program, which has every reply begin with thoughts. */
static spc_status write_deepseek_r1(writer *w, const spc_chat_message *m, int32_t count, bool reply)
{
    spc_status status = write_deepseek_r1_old(w, m, count, reply);

    if (reply) say(w, "<think>\n");
    return status;
}

/* ---- Phi ---------------------------------------------------------------------------------------
 */

/* A message behind its role, each by its mark; `line` behind both. */
static void put_phi(writer *w, const spc_chat_message *m, const char *line)
{
    static const char *const marks[] = {"<|system|>", "<|user|>", "<|assistant|>"};

    mark(w, marks[m->role]);
    say(w, line);
    put_words(w, words_of(m));
    mark(w, "<|end|>");
    say(w, line);
}

/* Where the next message is not the model's, the text is at its end. */
static void end_phi(writer *w, bool reply, const char *line)
{
    mark(w, reply ? "<|assistant|>" : "<|endoftext|>");
    if (reply) say(w, line);
}

static spc_status write_phi3(writer *w, const spc_chat_message *m, int32_t count, bool reply)
{
    for (int32_t i = 0; i < count; i++) put_phi(w, &m[i], "\n");
    end_phi(w, reply, "\n");
    return SPC_OK;
}

/* A system message that says nothing is not there. */
static spc_status write_phi35(writer *w, const spc_chat_message *m, int32_t count, bool reply)
{
    for (int32_t i = 0; i < count; i++) {
        if (m[i].role != SPC_CHAT_SYSTEM || m[i].bytes > 0) put_phi(w, &m[i], "\n");
    }
    end_phi(w, reply, "\n");
    return SPC_OK;
}

static spc_status write_phi4_mini(writer *w, const spc_chat_message *m, int32_t count, bool reply)
{
    for (int32_t i = 0; i < count; i++) put_phi(w, &m[i], "");
    end_phi(w, reply, "");
    return SPC_OK;
}

static void begin_phi4(writer *w, const char *role)
{
    mark(w, "<|im_start|>");
    say(w, role);
    mark(w, "<|im_sep|>");
}

static spc_status write_phi4(writer *w, const spc_chat_message *m, int32_t count, bool reply)
{
    for (int32_t i = 0; i < count; i++) {
        begin_phi4(w, role_names[m[i].role]);
        put_words(w, words_of(&m[i]));
        mark(w, "<|im_end|>");
    }
    if (reply) begin_phi4(w, "assistant");
    return SPC_OK;
}

/* ---- the families -----------------------------------------------------------------------------
 */

enum { MARKS_MAX = 4 };

struct spc_chat_family {
    const char *name;
    spc_status (*write)(writer *w, const spc_chat_message *m, int32_t count, bool reply);
    const char *mark[MARKS_MAX]; /* special tokens it needs; the first ends a reply */
    const char *system;          /* NULL: none by default */
};

#define CHATML                       \
    {                                \
        "<|im_end|>", "<|im_start|>" \
    }
#define LLAMA3                                                                        \
    {                                                                                 \
        "<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>" \
    }
#define LLAMA2        \
    {                 \
        "</s>", "<s>" \
    }
#define GEMMA                                       \
    {                                               \
        "<end_of_turn>", "<bos>", "<start_of_turn>" \
    }
#define DEEPSEEK                                                        \
    {                                                                   \
        DEEPSEEK_END, DEEPSEEK_BEGIN, DEEPSEEK_USER, DEEPSEEK_ASSISTANT \
    }

#define PHI                                                     \
    {                                                           \
        "<|end|>", "<|user|>", "<|assistant|>", "<|endoftext|>" \
    }

static const spc_chat_family families[] = {
    {"chatml", write_chatml, CHATML, NULL},
    {"qwen2", write_chatml, CHATML, "You are a helpful assistant."},
    {"qwen2.5", write_chatml, CHATML,
     "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."},
    {"smollm2", write_chatml, CHATML,
     "You are a helpful AI assistant named SmolLM, trained by Hugging Face"},
    {"qwen3", write_qwen3, CHATML, NULL},
    {"qwen3-no-thinking", write_qwen3_no_thinking, CHATML, NULL},
    {"llama2", write_llama2, LLAMA2, NULL},
    {"llama3", write_llama3, LLAMA3, NULL},
    {"llama3.1", write_llama31, LLAMA3, NULL},
    {"mistral-v1-old", write_mistral_v1_old, LLAMA2, NULL},
    {"mistral-v1", write_mistral_v1, LLAMA2, NULL},
    {"mistral-v3", write_mistral_v3, {"</s>", "<s>", "[INST]", "[/INST]"}, NULL},
    {"mistral-nemo", write_mistral_nemo, {"</s>", "<s>", "[INST]", "[/INST]"}, NULL},
    {"gemma2", write_gemma2, GEMMA, NULL},
    {"gemma3", write_gemma3, GEMMA, NULL},
    {"phi3", write_phi3, PHI, NULL},
    {"phi3.5", write_phi35, PHI, NULL},
    {"phi4-mini", write_phi4_mini, PHI, NULL},
    {"phi4", write_phi4, {"<|im_end|>", "<|im_start|>", "<|im_sep|>"}, NULL},
    {"deepseek-r1", write_deepseek_r1, DEEPSEEK, NULL},
    {"deepseek-r1-old", write_deepseek_r1_old, DEEPSEEK, NULL},
};

bool spc_chat_find(const char *name, spc_chat_template *out)
{
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        const char *system = families[i].system ? families[i].system : "";

        if (strcmp(families[i].name, name) != 0) continue;
        out->family = &families[i];
        memcpy(out->system, system, strlen(system) + 1);
        return true;
    }
    return false;
}

const char *spc_chat_name(const spc_chat_template *chat)
{
    return chat->family->name;
}

spc_status spc_chat_check(const spc_chat_template *chat, const spc_tokenizer *tokenizer,
                          int32_t *end, spc_error *err)
{
    static const size_t start = 0;

    for (int i = 0; i < MARKS_MAX && chat->family->mark[i]; i++) {
        const char *text = chat->family->mark[i];
        int32_t *ids, count, id;
        spc_status status = spc_tokenizer_encode_marked(tokenizer, text, strlen(text), &start, 1,
                                                        &ids, &count, err);

        if (status != SPC_OK) return status;
        id = count == 1 ? ids[0] : -1;
        free(ids);
        if (!spc_tokenizer_is_special(tokenizer, id)) {
            return spc_error_set(err, SPC_EMODEL,
                                 "chat template %s: the tokenizer has no special token '%s': the "
                                 "template is another model's",
                                 spc_chat_name(chat), text);
        }
        if (i == 0) *end = id;
    }
    return SPC_OK;
}

/* ---- a conversation ---------------------------------------------------------------------------
 */

static spc_status check_messages(const spc_chat_message *message, int32_t count, spc_error *err)
{
    if (count < 1) return spc_error_set(err, SPC_EINPUT, "a conversation without messages");
    for (int32_t i = 0; i < count; i++) {
        size_t at = message[i].bytes > 0 ? spc_utf8_invalid(message[i].text, message[i].bytes) : 0;

        if (at == message[i].bytes) continue;
        return spc_error_set(err, SPC_EINPUT,
                             "message %d: expected UTF-8, found byte 0x%02x at offset %zu",
                             (int)i + 1, (unsigned)(unsigned char)message[i].text[at], at);
    }
    return SPC_OK;
}

spc_status spc_chat_render(const spc_chat_template *chat, const spc_chat_message *message,
                           int32_t count, bool reply, spc_chat_text *out, spc_error *err)
{
    writer w = {.chat = chat, .err = err};
    spc_status status = check_messages(message, count, err);

    memset(out, 0, sizeof *out);
    say(&w, ""); /* a conversation may have no text at all */
    if (status == SPC_OK) status = chat->family->write(&w, message, count, reply);
    if (status == SPC_OK && w.no_memory) {
        status = spc_error_set(err, SPC_ENOMEM, "no memory for a conversation of %d messages",
                               (int)count);
    }
    if (status != SPC_OK) {
        spc_chat_text_free(&w.out);
        return status;
    }
    *out = w.out;
    return SPC_OK;
}

void spc_chat_text_free(spc_chat_text *text)
{
    free(text->text);
    free(text->mark);
    memset(text, 0, sizeof *text);
}

spc_status spc_chat_encode(const spc_chat_template *chat, const spc_tokenizer *tokenizer,
                           const spc_chat_message *message, int32_t count, bool reply,
                           int32_t **ids, int32_t *id_count, spc_error *err)
{
    spc_chat_text text;
    spc_status status = spc_chat_render(chat, message, count, reply, &text, err);

    *ids = NULL;
    *id_count = 0;
    if (status != SPC_OK) return status;
    status = spc_tokenizer_encode_marked(tokenizer, text.text, text.bytes, text.mark,
                                         text.mark_count, ids, id_count, err);
    spc_chat_text_free(&text);
    return status;
}
