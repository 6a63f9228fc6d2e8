/* Links the installed libdsv4_simt: calls an op with host pointers, and is refused wrong sizes. */
#include <dsv4/dsv4.h>

#include <stdio.h>
#include <string.h>

enum { kVocab = 3, kHidden = 8, kStreams = 4, kTokens = 2 };

int main(void) {
  const int32_t ids[kTokens] = {2, 0};
  float table[kVocab * kHidden], out[kTokens * kStreams * kHidden] = {0};
  for (int i = 0; i < kVocab * kHidden; ++i) table[i] = (float)i;

  dsv4_embed_params p;
  if (dsv4_embed_params_init(&p) != DSV4_OK) return 1;
  p.out = out;
  p.table = table;
  p.ids = ids;
  p.tokens = kTokens;
  p.hidden = kHidden;
  p.vocab = kVocab;
  p.streams = kStreams;
  p.dtype = DSV4_DTYPE_F32;
  p.table_dtype = DSV4_DTYPE_F32;
  if (dsv4_embed(&p, NULL) != DSV4_OK) {
    puts(dsv4_last_error());
    return 2;
  }
  for (int t = 0; t < kTokens; ++t)
    for (int i = 0; i < kStreams * kHidden; ++i)
      if (out[t * kStreams * kHidden + i] != table[ids[t] * kHidden + i % kHidden]) return 3;

  p.tokens = -1;
  if (dsv4_embed(&p, NULL) != DSV4_INVALID_ARGUMENT) return 4;
  puts(dsv4_last_error());
  if (!strstr(dsv4_last_error(), "value -1")) return 5;
  return strcmp(dsv4_backend(), "simt") == 0 && dsv4_supports("embed", 0, DSV4_DTYPE_F32, DSV4_FORMAT_F32)
             ? 0
             : 6;
}
