// A C struct of dsv4.h and the C++ struct that it mirrors: the proof that the bytes of one are the other's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

namespace dsv4::kernels::c_api {

/// Mirror<C>::Cpp: what C mirrors. Specialised by DSV4_MIRROR.
template <class C>
struct Mirror;

/// Bytes in front of the mirrored fields: struct_size, where the struct has one.
template <class C>
inline constexpr std::size_t kHead = [] {
  if constexpr (requires(C c) { c.struct_size; })
    return sizeof(std::size_t);
  else
    return std::size_t{0};
}();

/// May a field of type C stand for one of type Cpp? The same type, the int32_t under an enum, a mirror.
template <class C, class Cpp>
constexpr bool stands_for() {
  if constexpr (std::is_same_v<C, Cpp>)
    return true;
  else if constexpr (std::is_enum_v<Cpp>)
    return std::is_same_v<C, std::int32_t> && std::is_same_v<C, std::underlying_type_t<Cpp>>;
  else if constexpr (std::is_array_v<Cpp> && std::is_array_v<C>)
    return std::extent_v<C> == std::extent_v<Cpp> &&
           stands_for<std::remove_extent_t<C>, std::remove_extent_t<Cpp>>();
  else if constexpr (requires { typename Mirror<C>::Cpp; })
    return std::is_same_v<typename Mirror<C>::Cpp, Cpp>;
  else
    return false;
}

struct Anything {
  template <class T>
  constexpr operator T() const;  // NOLINT(google-explicit-constructor): never defined, for `requires` alone
};
template <class T, std::size_t... kIndex>
constexpr bool takes(std::index_sequence<kIndex...>) {
  return requires { T{(static_cast<void>(kIndex), Anything{})...}; };
}
/// Initialisers that aggregate T has room for: its fields, an array counted by its elements.
template <class T, std::size_t kCount = 1>
constexpr std::size_t initialisers() {
  if constexpr (takes<T>(std::make_index_sequence<kCount + 1>{}))
    return initialisers<T, kCount + 1>();
  else
    return kCount;
}
template <class Field>
inline constexpr std::size_t kInitialisers = std::is_array_v<Field> ? std::extent_v<Field> : 1;

}  // namespace dsv4::kernels::c_api

// DSV4_EACH(f, a, b, x, y, ...): f(a, b, x) f(a, b, y) ... for up to 64 names (a macro cannot call itself, so
// each round is rescanned a few times more).
#define DSV4_PARENS ()
#define DSV4_SCAN(...) DSV4_SCAN4(DSV4_SCAN4(DSV4_SCAN4(DSV4_SCAN4(__VA_ARGS__))))
#define DSV4_SCAN4(...) DSV4_SCAN3(DSV4_SCAN3(DSV4_SCAN3(DSV4_SCAN3(__VA_ARGS__))))
#define DSV4_SCAN3(...) DSV4_SCAN2(DSV4_SCAN2(DSV4_SCAN2(DSV4_SCAN2(__VA_ARGS__))))
#define DSV4_SCAN2(...) __VA_ARGS__
#define DSV4_EACH(f, a, b, ...) __VA_OPT__(DSV4_SCAN(DSV4_EACH_STEP(f, a, b, __VA_ARGS__)))
#define DSV4_EACH_STEP(f, a, b, x, ...) \
  f(a, b, x) __VA_OPT__(DSV4_EACH_AGAIN DSV4_PARENS(f, a, b, __VA_ARGS__))
#define DSV4_EACH_AGAIN() DSV4_EACH_STEP

#define DSV4_MIRROR_FIELD(C, Type, field)                                               \
  static_assert(offsetof(C, field) == offsetof(Type, field) + kHead<C>, #C "." #field); \
  static_assert(stands_for<decltype(C::field), decltype(Type::field)>(), #C "." #field);
#define DSV4_MIRROR_COUNT(C, Type, field) +kInitialisers<decltype(Type::field)>

/// DSV4_MIRROR(C, Type, fields...): every field of Type is named, has its place and its type in C, and C has
/// nothing else.
#define DSV4_MIRROR(C, Type, ...)                                                             \
  template <>                                                                                 \
  struct Mirror<C> {                                                                          \
    using Cpp = Type;                                                                         \
  };                                                                                          \
  DSV4_EACH(DSV4_MIRROR_FIELD, C, Type, __VA_ARGS__)                                          \
  static_assert(sizeof(C) == sizeof(Type) + kHead<C> && alignof(C) == alignof(Type), #C);     \
  static_assert(std::is_trivially_copyable_v<Type> && std::is_standard_layout_v<Type>, #C);   \
  static_assert(initialisers<Type>() == 0 DSV4_EACH(DSV4_MIRROR_COUNT, C, Type, __VA_ARGS__), \
                #C ": a field of " #Type " is missing")
