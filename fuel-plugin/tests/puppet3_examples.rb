# What puppet3.rb has to find: one to a line, and nothing in the other lines. Not part of the plugin.
def keywords(one, two: 1) # wrong
  one
end

def plain(one, two = 1)
  { :a => one, b: two }.map { |key, value| [key, value] }
end

found = plain(1)&.first # wrong
text = <<~TEXT # wrong
  a
TEXT
old = <<-TEXT
  a
TEXT
pairs = [[1, 2]].to_h # wrong
pairs = Hash[[[1, 2]]]
names = %i[a b] # wrong
names = %w[a b].map(&:to_sym)
value = { 'a' => { 'b' => 1 } }.dig('a', 'b') # wrong
total = [1, 2].sum # wrong
total = [1, 2].inject(:+)
private def hidden; end # wrong
