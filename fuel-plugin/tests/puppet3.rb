# Finds what Puppet 3 and Ruby 1.9.3 on the nodes would not read, in files that Debian's Puppet 7 and Ruby 3 read.
#
#   ruby puppet3.rb FILE.pp|FILE.rb ...
#
# Prints "file:line: what" for each finding. Manifests are parsed by Puppet itself and judged by their syntax tree; Ruby
# is judged by its tokens and by a list of methods that came later.
require 'puppet'
require 'puppet/pops'
require 'ripper'

# Functions that Puppet 3 does not have, here and in the versions of stdlib that Fuel ships.
LATER_FUNCTIONS = %w[
  all annotate any assert_type binary_file break call camelcase compare convert_to dig each epp eyaml_lookup_key filter
  find_file find_template get group_by hocon_data index inline_epp length lest lookup map match module_directory new next
  partition reduce return reverse_each slice step then tree_each unwrap with yaml_data
].freeze

DATA_TYPES = %w[
  Any Array Binary Boolean Callable Catalogentry Collection Data Default Deferred Enum Float Hash Integer Iterable Iterator
  NotUndef Numeric Optional Pattern Regexp Runtime Scalar ScalarData SemVer Sensitive String Struct Timespan Timestamp Tuple
  Type Undef Variant
].freeze

LATER_METHODS = %w[
  __dir__ bsearch casecmp? clamp delete_prefix delete_suffix dig fetch_values filter filter_map itself lazy match?
  negative? positive? refine sum tally then to_h transform_keys transform_values undump unpack1 using yield_self
].freeze

# What may stand before the question mark of a selector.
SELECTABLE = %w[
  AccessExpression CallNamedFunctionExpression ConcatenatedString LiteralBoolean LiteralInteger LiteralString LiteralUndef
  QualifiedName VariableExpression
].freeze

module Puppet3
  # Names of syntax trees that Puppet 3's parser has no words for.
  NOT_THERE = {
    'LambdaExpression' => 'a lambda',
    'CallMethodExpression' => 'a function called like a method',
    'HeredocExpression' => 'a heredoc',
    'UnfoldExpression' => 'a splat',
    'FunctionDefinition' => 'a function in the Puppet language',
    'PlanDefinition' => 'a plan',
    'TypeAlias' => 'a type alias',
    'TypeMapping' => 'a type mapping',
    'TypeDefinition' => 'a type definition',
    'EppExpression' => 'EPP',
    'ApplyExpression' => 'apply',
    'CapabilityMapping' => 'a capability',
    'Application' => 'an application',
    'AttributesOperation' => 'attributes from a hash',
    'ReservedWord' => 'a reserved word'
  }.freeze

  def self.findings(path)
    model = Puppet::Pops::Parser::EvaluatingParser.new.parse_string(File.read(path), path)
    found = []
    walk(model, [], found)
    found
  rescue Puppet::Error => error
    [[error.respond_to?(:line) ? error.line : 1, error.message]]
  end

  def self.kind_of(node)
    node.class.name.split('::').last
  end

  def self.walk(node, above, found)
    judge(node, above, found)
    node._pcore_contents { |inner| walk(inner, above + [node], found) }
  end

  def self.judge(node, above, found)
    kind = kind_of(node)
    report = ->(what) { found << [line(node, above), "#{what} is not of Puppet 3"] }
    report.call(NOT_THERE[kind]) if NOT_THERE[kind]
    case kind
    when 'Parameter'
      report.call("the type of parameter $#{node.name}") if node.type_expr
      report.call('a parameter that takes the rest') if node.captures_rest
    when 'CallNamedFunctionExpression'
      name = node.functor_expr.respond_to?(:value) ? node.functor_expr.value : ''
      report.call("the function #{name}") if LATER_FUNCTIONS.include?(name)
      report.call('a type called as a function') if kind_of(node.functor_expr) == 'QualifiedReference'
    when 'QualifiedReference'
      report.call("the type #{node.cased_value}") if DATA_TYPES.include?(node.cased_value)
    when 'IfExpression', 'CaseExpression', 'UnlessExpression'
      report.call("#{kind} used as a value") if value?(above.last, node)
      report.call('unless with else') if kind == 'UnlessExpression' && !%w[Nop NilClass].include?(kind_of(node.else_expr))
    when 'AssignmentExpression'
      report.call('an assignment to several variables') if kind_of(node.left_expr) == 'LiteralList'
      report.call("the operator #{node.operator}") if node.operator != '='
      report.call('an assignment used as a value') if value?(above.last, node)
    when 'ArithmeticExpression'
      collection = [node.left_expr, node.right_expr].any? { |side| %w[LiteralList LiteralHash].include?(kind_of(side)) }
      report.call("the operator #{node.operator} on lists") if collection
    when 'VariableExpression'
      name = node.expr.respond_to?(:value) ? node.expr.value.to_s : ''
      # Only with trusted_node_data and a master of 3.4 or later.
      report.call("$#{name}") if %w[facts trusted server_facts].include?(name.sub(/\A::/, ''))
    when 'AccessExpression'
      report.call('a slice or a negative index') if kind_of(node.left_expr) == 'VariableExpression' && odd_index?(node.keys)
      report.call('an index behind a function') if kind_of(node.left_expr) == 'CallNamedFunctionExpression'
    when 'SelectorExpression'
      report.call('an expression before ?') unless SELECTABLE.include?(kind_of(node.left_expr))
    when 'ResourceExpression'
      report.call('several titles with a default body') if node.bodies.any? { |body| kind_of(body.title) == 'LiteralDefault' }
    end
  end

  def self.odd_index?(keys)
    keys.length > 1 || kind_of(keys.first) == 'UnaryMinusExpression'
  end

  # Whether `node` stands where its parent takes a value.
  def self.value?(parent, node)
    case parent && kind_of(parent)
    when nil, 'Program', 'BlockExpression', 'HostClassDefinition', 'ResourceTypeDefinition', 'NodeDefinition', 'CaseOption'
      false
    when 'IfExpression', 'UnlessExpression'
      parent.test.equal?(node)
    when 'CaseExpression'
      parent.test.equal?(node)
    else
      true
    end
  end

  def self.line(node, above)
    ([node] + above.reverse).each do |one|
      return one.line if one.respond_to?(:line) && one.respond_to?(:offset) && one.offset
    end
    1
  end
end

module Ruby19
  def self.findings(path)
    source = File.read(path)
    return [[1, 'is no Ruby']] unless Ripper.sexp(source)
    found = []
    before = nil
    Ripper.lex(source).each do |(line, _), kind, text|
      found << [line, '&. is of Ruby 2.3'] if kind == :on_op && text == '&.'
      found << [line, '<<~ is of Ruby 2.3'] if kind == :on_heredoc_beg && text.start_with?('<<~')
      found << [line, "#{text.strip} is of Ruby 2.0"] if %i[on_symbols_beg on_qsymbols_beg].include?(kind)
      if kind == :on_ident && (before == '.' || text == '__dir__') && LATER_METHODS.include?(text)
        found << [line, "the method #{text} is later than Ruby 1.9.3"]
      end
      before = text unless %i[on_sp on_ignored_nl on_nl].include?(kind)
    end
    found + keywords(source)
  end

  # Keyword parameters, and `private def`: by the tree, since tokens do not tell them from hashes.
  def self.keywords(source)
    found = []
    visit = lambda do |node|
      next unless node.is_a?(Array)
      if node.first == :params && node[5]
        node[5].each { |label, _| found << [label[2][0], "the keyword parameter #{label[1]} is of Ruby 2.0"] }
      end
      if node.first == :command && node[1].is_a?(Array) && %w[private public protected].include?(node[1][1]) &&
         node[2].inspect.include?('[:def,')
        found << [node[1][2][0], "#{node[1][1]} def is of Ruby 2.1"]
      end
      node.each(&visit)
    end
    visit.call(Ripper.sexp(source))
    found
  end
end

wrong = 0
ARGV.each do |path|
  found = path.end_with?('.rb') ? Ruby19.findings(path) : Puppet3.findings(path)
  found.uniq.sort_by { |line, what| [line.to_i, what] }.each do |line, what|
    puts "#{path}:#{line}: #{what}"
    wrong += 1
  end
end
exit(wrong.zero? ? 0 : 1)
