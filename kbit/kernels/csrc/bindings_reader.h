// What the bindings of both decoders ask of a call, before it runs without Python's lock.
#pragma once

#include <string>

#include "tensors.h"

namespace kbit {

// Tokens and the logits that they give, int64 (n,) and LOGIT (1 or n, vocabulary).
template <class LOGIT>
struct Call {
  const int64_t *tokens;
  LOGIT *logits;
  int64_t n;
  bool all;  // logits of every token, not of the last alone
};

// Throws ValueError, which begins with `who`, unless a decoder with `room` for more tokens of a vocabulary can take the call.
template <class LOGIT>
Call<LOGIT> checked_call(const char *who, nb::handle tokens, nb::handle logits, int64_t width, int64_t room, int64_t vocabulary) {
  const auto refuse = [who](const char *what) {
    throw nb::value_error((std::string(who) + " cannot take " + what + ".").c_str());
  };
  const TensorView ids("tokens", tokens), out("logits", logits, true);
  const auto *from = static_cast<const int64_t *>(ids.address<int64_t>({-1}));
  auto *to = static_cast<LOGIT *>(out.address<LOGIT>({-1, width}));
  const int64_t n = ids.size(0), rows = out.size(0);
  if (n < 1) refuse("an empty row of tokens");
  if (rows != 1 && rows != n) refuse("logits of neither one row nor a row to a token");
  if (n > room) refuse("more tokens than its cache holds");
  for (int64_t i = 0; i < n; ++i)
    if (from[i] < 0 || from[i] >= vocabulary) refuse("a token that is not of its vocabulary");
  return {from, to, n, rows == n};
}

}  // namespace kbit
